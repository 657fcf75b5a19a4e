//! Resolves an index to the manifests to import: groups entries by name, opens nested indexes, chooses a platform.

use std::collections::BTreeSet;

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest};

use super::document::{self, Blobs, Document};
use super::names;
use super::platform::{self, Platform};
use super::progress::Progress;
use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::store::reference::Reference;

/// The deepest nesting of indexes; real ones have one or two levels.
const MAX_DEPTH: u32 = 5;
/// The most entries read in all indexes together.
const MAX_ENTRIES: usize = 2000;

/// An image to import, its documents read and verified.
#[derive(Debug, Clone)]
pub(super) struct Selected {
    pub(super) manifest: Digest,
    pub(super) manifest_bytes: Vec<u8>,
    pub(super) parsed: ImageManifest,
    pub(super) names: Vec<String>,
    /// Its names by digest at registries.
    pub(super) repo_digests: Vec<String>,
    pub(super) platform: Platform,
    /// The manifests of the images for other platforms under the same names.
    pub(super) others: Vec<Digest>,
}

/// The criteria of a choice.
pub(super) struct Choice<'a> {
    pub(super) wanted: &'a Platform,
    /// The platform was asked for: an image for another one is not taken, even where there is nothing to choose from.
    pub(super) strict: bool,
    /// The images for other platforms are wanted too.
    pub(super) all: bool,
    /// The name of the source, for images that have only a tag.
    pub(super) label: Option<&'a str>,
}

impl Choice<'_> {
    /// Which of the platforms that an image is there for is taken; `is_single` where there is nothing to choose from: many
    /// images, for ARM boards above all, claim a platform that they are not for.
    fn best(
        &self,
        platforms: &[Platform],
        is_single: bool,
        name: Option<&str>,
        progress: &dyn Progress,
    ) -> Option<usize> {
        if let Some(best) = platform::choose(platforms, self.wanted) {
            return Some(best);
        }
        match platforms {
            [] => None,
            [claimed] if is_single && !self.strict && !self.all => {
                progress.warn(&mislabelled(name, claimed, self.wanted));
                Some(0)
            }
            _ => self.all.then_some(0),
        }
    }

    /// Names an image that was not taken because others were.
    pub(super) fn warn_of_left_out(&self, name: Option<&str>, platform: &Platform, progress: &dyn Progress) {
        let image = name.unwrap_or("an image without a name");
        progress.warn(&format!("{image} is left out: it is for {}, not {}", shown(platform), self.wanted));
    }
}

/// The warning for an image that is taken although it claims another platform.
pub(super) fn mislabelled(name: Option<&str>, claimed: &Platform, wanted: &Platform) -> String {
    let image = name.unwrap_or("the image");
    format!("{image} claims to be for {}, not {wanted}; it is used all the same", shown(claimed))
}

fn shown(platform: &Platform) -> String {
    match (platform.os.is_empty(), platform.architecture.is_empty()) {
        (true, true) => "no platform".to_owned(),
        (_, true) => format!("{} without an architecture", platform.os),
        (true, false) => platform.architecture.clone(),
        (false, false) => platform.to_string(),
    }
}

/// Whether these entries are one image, with no index to choose from.
fn is_single(entries: &[Descriptor]) -> bool {
    matches!(entries, [one] if !is_index(one))
}

fn is_index(entry: &Descriptor) -> bool {
    matches!(
        entry.media_type().as_ref(),
        "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json"
    )
}

/// A manifest that an index leads to.
struct Leaf {
    descriptor: Descriptor,
    platform: Platform,
    /// The outermost index that leads to it, if any.
    index: Option<Digest>,
}

/// Parses `index.json` and selects the images that run on the wanted platform: the best one for each name, and with
/// [`Choice::all`] also the others of the name.
///
/// # Errors
/// `NotFound` when a document is missing or nothing fits the platform.
pub(super) fn select(
    index: &[u8],
    blobs: &dyn Blobs,
    choice: &Choice<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Selected>> {
    let index = match document::parse(index, None).map_err(|e| e.doing("read index.json"))? {
        Document::Index(index) => *index,
        Document::Manifest(_) => return Err(Error::new(Kind::Corrupt, "index.json is a manifest")),
    };
    let mut walk = Walk { blobs, left: MAX_ENTRIES, refused: Vec::new() };
    let mut selected: Vec<Selected> = Vec::new();
    let (mut offered, mut left_out) = (Vec::new(), Vec::new());
    for (name, entries) in by_name(&index, choice.label, progress) {
        let leaves = walk.leaves(&entries, 0)?;
        let platforms: Vec<Platform> = leaves.iter().map(|leaf| leaf.platform.clone()).collect();
        let chosen = choice.best(&platforms, is_single(&entries), name.as_deref(), progress);
        let Some(best) = chosen else {
            left_out.extend(platforms.iter().map(|one| (name.clone(), one.clone())));
            offered.extend(platforms);
            continue;
        };
        let named = |mut image: Selected, index| {
            give_name(&mut image, name.as_deref(), index, progress);
            image
        };
        if choice.all && name.is_some() {
            let index = leaves.get(best).and_then(|leaf| leaf.index);
            let mut all = read_all(blobs, leaves, best)?.into_iter();
            all.next().into_iter().for_each(|head| add(&mut selected, named(head, index)));
            all.for_each(|other| add(&mut selected, other));
            continue;
        }
        let best_platform = platforms[best].clone();
        for (place, leaf) in leaves.into_iter().enumerate() {
            // Unnamed entries for one platform are several images, not one image several times.
            let is_another = name.is_none() && entries.len() > 1 && leaf.platform == best_platform;
            if place == best || is_another || choice.all {
                let index = leaf.index;
                match read(blobs, leaf) {
                    Ok(image) => add(&mut selected, named(image, index)),
                    Err(error) if error.kind() == Kind::Unsupported => walk.refused.push(error),
                    Err(error) => return Err(error),
                }
            }
        }
    }
    if !selected.is_empty() {
        for refused in &walk.refused {
            progress.warn(&format!("an entry of the index is left out: {}", refused.chain()));
        }
    }
    match (selected.is_empty(), offered.is_empty(), walk.refused.into_iter().next()) {
        (false, ..) => {
            for (name, platform) in left_out {
                choice.warn_of_left_out(name.as_deref(), &platform, progress);
            }
            Ok(selected)
        }
        (true, false, _) => Err(platform::none_fits(choice.wanted, &offered)),
        (true, true, Some(refused)) => Err(refused),
        (true, true, None) => Err(Error::new(Kind::NotFound, "there is no image in the index")),
    }
}

/// Selects images from `top`, an image or an index of images, for `wanted`: the best one first; with `all`, every other
/// one after it.
///
/// # Errors
/// `NotFound` when a document is missing or nothing fits the platform.
pub(super) fn select_from(
    top: Descriptor,
    blobs: &dyn Blobs,
    choice: &Choice<'_>,
    progress: &dyn Progress,
) -> Result<Vec<Selected>> {
    let (wanted, all) = (choice.wanted, choice.all);
    let mut walk = Walk { blobs, left: MAX_ENTRIES, refused: Vec::new() };
    let entries = [top];
    let leaves = walk.leaves(&entries, 0)?;
    let platforms: Vec<Platform> = leaves.iter().map(|leaf| leaf.platform.clone()).collect();
    let best = match (
        choice.best(&platforms, is_single(&entries), choice.label, progress),
        walk.refused.into_iter().next(),
    ) {
        (Some(best), _) => best,
        (None, Some(refused)) if leaves.is_empty() => return Err(refused),
        (None, _) if leaves.is_empty() => {
            return Err(Error::new(Kind::NotFound, "there is no image in the index"));
        }
        (None, _) if !all => return Err(platform::none_fits(wanted, &platforms)),
        (None, _) => 0,
    };
    if all {
        return read_all(blobs, leaves, best);
    }
    leaves.into_iter().skip(best).take(1).map(|leaf| read(blobs, leaf)).collect()
}

/// Reads all leaves, the one at `best` first, which records the others.
fn read_all(blobs: &dyn Blobs, mut leaves: Vec<Leaf>, best: usize) -> Result<Vec<Selected>> {
    leaves.swap(0, best);
    let mut all = leaves.into_iter().map(|leaf| read(blobs, leaf)).collect::<Result<Vec<_>>>()?;
    if let Some((head, others)) = all.split_first_mut() {
        let others = others.iter().map(|other| other.manifest).filter(|other| *other != head.manifest);
        head.others = others.collect::<BTreeSet<_>>().into_iter().collect();
    }
    Ok(all)
}

/// The entries of an index grouped by name, in their order; all unnamed ones are one group.
fn by_name(
    index: &ImageIndex,
    label: Option<&str>,
    progress: &dyn Progress,
) -> Vec<(Option<String>, Vec<Descriptor>)> {
    let mut groups: Vec<(Option<String>, Vec<Descriptor>)> = Vec::new();
    for entry in index.manifests() {
        let name = names::of_annotations(entry.annotations().as_ref(), label).unwrap_or_else(|error| {
            progress.warn(&format!("an image keeps no name: {}", error.chain()));
            None
        });
        match groups.iter_mut().find(|(known, _)| *known == name) {
            Some((_, entries)) => entries.push(entry.clone()),
            None => groups.push((name, vec![entry.clone()])),
        }
    }
    groups
}

/// Gives `image` a name of the source, and the name by digest of the index that leads to it. A digest in the name, as
/// `ctr export` writes it, must be the image's or that of the index: it would be found in place of another image.
fn give_name(image: &mut Selected, name: Option<&str>, index: Option<Digest>, progress: &dyn Progress) {
    let Some((name, reference)) = name.and_then(|name| Some((name, Reference::parse(name).ok()?))) else {
        return;
    };
    let repository = format!("{}/{}", reference.registry(), reference.path());
    image.repo_digests.extend(index.map(|index| format!("{repository}@{index}")));
    let Some(digest) = reference.digest() else {
        image.names.push(name.to_owned());
        return;
    };
    if *digest == image.manifest {
        image.repo_digests.push(format!("{repository}@{digest}"));
    } else if Some(*digest) != index {
        progress.warn(&format!("an image keeps no name: {name} has the digest of something else"));
    }
    image.names.extend(reference.tag().map(|tag| format!("{repository}:{tag}")));
}

/// Adds an image, or its names to the same image.
fn add(selected: &mut Vec<Selected>, image: Selected) {
    match selected.iter_mut().find(|known| known.manifest == image.manifest) {
        Some(known) => {
            known.names.extend(image.names);
            known.repo_digests.extend(image.repo_digests);
        }
        None => selected.push(image),
    }
}

fn read(blobs: &dyn Blobs, leaf: Leaf) -> Result<Selected> {
    let manifest = document::digest_of(&leaf.descriptor)?;
    let (manifest_bytes, parsed) = read_manifest(blobs, &leaf.descriptor)?;
    let platform = leaf.platform;
    Ok(Selected {
        manifest,
        manifest_bytes,
        parsed,
        names: Vec::new(),
        repo_digests: Vec::new(),
        platform,
        others: Vec::new(),
    })
}

fn read_manifest(blobs: &dyn Blobs, descriptor: &Descriptor) -> Result<(Vec<u8>, ImageManifest)> {
    let bytes = document::fetch(blobs, descriptor)?;
    let doing = || format!("manifest {}", descriptor.digest());
    match document::parse(&bytes, Some(descriptor.media_type().as_ref())).doing(doing)? {
        Document::Manifest(manifest) => Ok((bytes, *manifest)),
        Document::Index(_) => Err(Error::new(Kind::Corrupt, format!("{} is an index", doing()))),
    }
}

/// The platform in a configuration.
pub(super) fn platform_of(config: &ImageConfiguration) -> Platform {
    Platform {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        variant: config.variant().clone().filter(|variant| !variant.is_empty()),
    }
}

/// A walk through nested indexes.
struct Walk<'a> {
    blobs: &'a dyn Blobs,
    left: usize,
    /// The entries that were left out because they are no image that can run, and why.
    refused: Vec<Error>,
}

impl Walk<'_> {
    fn leaves(&mut self, entries: &[Descriptor], depth: u32) -> Result<Vec<Leaf>> {
        if depth > MAX_DEPTH {
            return Err(Error::invalid(format!("indexes are nested more than {MAX_DEPTH} deep")));
        }
        let mut leaves = Vec::new();
        for entry in entries.iter().filter(|entry| !is_attestation(entry)) {
            self.left = self
                .left
                .checked_sub(1)
                .ok_or_else(|| Error::invalid(format!("the indexes have more than {MAX_ENTRIES} entries")))?;
            match self.leaf(entry, depth) {
                Ok(found) => leaves.extend(found),
                // An artifact beside the images, such as a signature, must not make the images fail.
                Err(error) if error.kind() == Kind::Unsupported => {
                    self.refused.push(error.doing(format!("entry {}", entry.digest())));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(leaves)
    }

    fn leaf(&mut self, entry: &Descriptor, depth: u32) -> Result<Vec<Leaf>> {
        match entry.media_type().as_ref() {
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => {
                let bytes = document::fetch(self.blobs, entry)?;
                let doing = || format!("index {}", entry.digest());
                match document::parse(&bytes, Some(entry.media_type().as_ref())).doing(doing)? {
                    Document::Index(index) => {
                        let mut leaves = self.leaves(index.manifests(), depth + 1)?;
                        let digest = document::digest_of(entry)?;
                        leaves.iter_mut().for_each(|leaf| leaf.index = Some(digest));
                        Ok(leaves)
                    }
                    Document::Manifest(_) => {
                        Err(Error::new(Kind::Corrupt, format!("{} is a manifest", doing())))
                    }
                }
            }
            _ => {
                let platform = match entry.platform() {
                    Some(named) => Platform {
                        os: named.os().to_string(),
                        architecture: named.architecture().to_string(),
                        variant: named.variant().clone(),
                    },
                    None => self.configured_platform(entry)?,
                };
                Ok(vec![Leaf { descriptor: entry.clone(), platform, index: None }])
            }
        }
    }

    fn configured_platform(&self, entry: &Descriptor) -> Result<Platform> {
        let (_, manifest) = read_manifest(self.blobs, entry)?;
        let bytes = document::fetch(self.blobs, manifest.config())?;
        Ok(platform_of(&document::parse_config(&bytes)?.0))
    }
}

/// Returns whether an entry is an attestation of buildkit, such as provenance, beside the images.
fn is_attestation(entry: &Descriptor) -> bool {
    let unknown = |text: &str| text == "unknown";
    let is_unknown = entry
        .platform()
        .as_ref()
        .is_some_and(|p| unknown(&p.os().to_string()) && unknown(&p.architecture().to_string()));
    let says = entry.annotations().as_ref().and_then(|all| all.get("vnd.docker.reference.type"));
    is_unknown || says.is_some_and(|kind| kind == "attestation-manifest")
}
