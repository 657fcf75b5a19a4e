//! The archives of `docker save`: `manifest.json` lists a configuration and layers by their paths.

use std::collections::BTreeMap;

use oci_spec::image::{Descriptor, ImageManifest, ImageManifestBuilder, MediaType};
use serde::Deserialize;

use super::archive::inside;
use super::document::{self, read_within};
use super::member_cache::MemberCache;
use super::platform;
use super::progress::Progress;
use super::resolve::{Choice, Selected, mislabelled, platform_of};
use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::store::reference::Reference;

/// Go's parser takes the names of fields in any case.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(alias = "config")]
    config: String,
    #[serde(alias = "repoTags", alias = "repotags", alias = "Repotags")]
    repo_tags: Option<Vec<Option<String>>>,
    #[serde(alias = "layers")]
    layers: Option<Vec<String>>,
}

/// Selects the images of `manifest.json` that run on `wanted`. Such an archive has no OCI manifest, so one is
/// generated, always the same for the same content.
///
/// # Errors
/// `NotFound` when a file is missing or no image fits the platform.
pub(super) fn select(
    manifest: &[u8],
    members: &MemberCache,
    choice: &Choice<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Selected>> {
    let mut entries: Vec<Entry> = serde_json::from_slice(manifest).doing(|| "read manifest.json")?;
    entries.iter_mut().try_for_each(clean).map_err(|e| e.doing("read manifest.json"))?;
    if entries.is_empty() {
        return Err(Error::new(Kind::NotFound, "there is no image in manifest.json"));
    }
    let old_names = old_names(members)?;
    let (mut fitting, mut others) = (Vec::new(), Vec::new());
    for entry in &entries {
        let mut image =
            image_of(entry, members).map_err(|e| e.doing(format!("read image {}", shown(&entry.config))))?;
        image.names = names_of(entry, &old_names, progress);
        let fits = platform::rank(&image.platform, choice.wanted).is_some();
        if fits { fitting.push(image) } else { others.push(image) }
    }
    let mut selected = Vec::new();
    fitting.into_iter().for_each(|image| add(&mut selected, image));
    let (mut offered, mut left_out) = (Vec::new(), Vec::new());
    for image in others {
        // Nothing to choose from: no image here that fits has its name.
        let is_rival = |other: &Selected| image.names.iter().any(|name| other.names.contains(name));
        let is_single =
            if image.names.is_empty() { entries.len() == 1 } else { !selected.iter().any(is_rival) };
        let name = image.names.first().map(String::as_str);
        if choice.strict || !is_single {
            left_out.push((name.map(str::to_owned), image.platform.clone()));
            offered.push(image.platform);
            continue;
        }
        progress.warn(&mislabelled(name, &image.platform, choice.wanted));
        add(&mut selected, image);
    }
    if selected.is_empty() {
        return Err(platform::none_fits(choice.wanted, &offered));
    }
    for (name, platform) in left_out {
        choice.warn_of_left_out(name.as_deref(), &platform, progress);
    }
    Ok(selected)
}

/// Replaces the paths of an entry by the names of members: `./x`, `/x` and `a/../x` are `x`, and some writers on Windows use
/// backslashes. A path out of the archive is refused.
fn clean(entry: &mut Entry) -> Result<()> {
    for path in std::iter::once(&mut entry.config).chain(entry.layers.iter_mut().flatten()) {
        *path = inside(path.replace('\\', "/").as_bytes())?;
    }
    Ok(())
}

/// Adds an image, or its names to the same image.
fn add(selected: &mut Vec<Selected>, mut image: Selected) {
    match selected.iter_mut().find(|known| known.manifest == image.manifest) {
        Some(known) => known.names.append(&mut image.names),
        None => selected.push(image),
    }
}

fn image_of(entry: &Entry, members: &MemberCache) -> Result<Selected> {
    let opened = members.open_name(&entry.config)?.ok_or_else(|| missing("configuration", &entry.config))?;
    let bytes = read_within(opened.reader, &shown(&entry.config))?;
    let (config, diff_ids) = document::parse_config(&bytes)?;
    let layers = entry.layers.as_deref().unwrap_or_default();
    if layers.len() != diff_ids.len() {
        let doing = format!("the image has {} layers, its configuration {}", layers.len(), diff_ids.len());
        return Err(Error::new(Kind::Corrupt, doing));
    }
    let layers = layers.iter().map(|path| layer_of(path, members)).collect::<Result<Vec<_>>>()?;
    let config_digest = Digest::of(&bytes);
    let parsed =
        manifest_of(descriptor(MediaType::ImageConfig, bytes.len() as u64, &config_digest)?, layers)?;
    let manifest_bytes = serde_json::to_vec(&parsed).doing(|| "write a manifest")?;
    Ok(Selected {
        manifest: Digest::of(&manifest_bytes),
        manifest_bytes,
        parsed,
        names: Vec::new(),
        repo_digests: Vec::new(),
        platform: platform_of(&config),
        others: Vec::new(),
    })
}

fn manifest_of(config: Descriptor, layers: Vec<Descriptor>) -> Result<ImageManifest> {
    ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .config(config)
        .layers(layers)
        .build()
        .map_err(|error| Error::new(Kind::Bug, "generate a manifest").because(error))
}

fn layer_of(path: &str, members: &MemberCache) -> Result<Descriptor> {
    let facts = members.facts(path).ok_or_else(|| missing("layer", path))?;
    descriptor(MediaType::ImageLayer, facts.size, &facts.digest)
}

fn descriptor(media_type: MediaType, size: u64, digest: &Digest) -> Result<Descriptor> {
    let digest: oci_spec::image::Digest = digest
        .to_string()
        .parse()
        .map_err(|error| Error::new(Kind::Bug, "generate a descriptor").because(error))?;
    Ok(Descriptor::new(media_type, size, digest))
}

fn names_of(
    entry: &Entry,
    old_names: &BTreeMap<String, Vec<String>>,
    progress: &dyn Progress,
) -> Vec<String> {
    let top = entry.layers.as_ref().and_then(|layers| layers.last()).and_then(|path| path.split('/').next());
    let fallback = top.and_then(|id| old_names.get(id));
    let own = entry.repo_tags.iter().flatten().flatten();
    let own = own.filter(|tag| !tag.is_empty() && !tag.starts_with("<none>") && !tag.ends_with(":<none>"));
    let mut tags: Vec<&String> = own.collect();
    if entry.repo_tags.as_ref().is_none_or(Vec::is_empty) {
        tags.extend(fallback.into_iter().flatten());
    }
    let mut names = Vec::new();
    for tag in tags {
        match Reference::parse(tag) {
            // The archive has no manifest whose digest this could be.
            Ok(reference) if reference.digest().is_some() => {
                progress.warn(&format!("an image keeps no name: the digest in {tag} cannot be verified"));
            }
            Ok(reference) => names.push(reference.to_string()),
            Err(error) => progress.warn(&format!("an image keeps no name: {}", error.chain())),
        }
    }
    names
}

/// The legacy file `repositories`: repository, tag, id of the top layer. Used only where `manifest.json` has no name.
fn old_names(members: &MemberCache) -> Result<BTreeMap<String, Vec<String>>> {
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let Some(opened) = members.open_name("repositories")? else { return Ok(names) };
    let bytes = read_within(opened.reader, "repositories")?;
    let Ok(all) = serde_json::from_slice::<BTreeMap<String, BTreeMap<String, String>>>(&bytes) else {
        return Ok(names);
    };
    for (repository, tags) in all {
        for (tag, id) in tags {
            names.entry(id).or_default().push(format!("{repository}:{tag}"));
        }
    }
    Ok(names)
}

fn missing(what: &str, path: &str) -> Error {
    Error::new(Kind::NotFound, format!("{what} {} is not in the archive", shown(path)))
        .hint("the archive is incomplete; save the image again")
}

fn shown(path: &str) -> String {
    format!("{:?}", path.chars().take(120).collect::<String>())
}
