//! `image export`: writes stored images as an OCI layout or in the form of `docker save`.
//!
//! The store has no compressed layers; the tars are rebuilt, bit for bit, and exported uncompressed. So the
//! configuration, the image id and every diffID stay the same. The manifest stays the same too if it listed
//! uncompressed layers, as that of any export does; else a new one is written for them. The same images always give the
//! same archive. Compressing again would not restore the old manifest: the output of a compressor depends on its
//! version and settings, which no image records.
//!
//! A name that stands for images for several platforms is exported as an index of them.

mod sink;

use std::collections::BTreeSet;
use std::io::Write;

use serde_json::{Value, json};

pub use sink::Target;

use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::store::reference::Reference;
use crate::store::{ImageRecord, LayerRecord, Platform, Store};
use sink::Sink;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The format of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An OCI image layout.
    Oci,
    /// An OCI image layout with the `manifest.json` of `docker save`, as docker writes it since 25.
    Docker,
}

/// An image and its names in the export, with its [others](ImageRecord::others) as far as the store has them.
#[derive(Debug, Clone)]
pub struct Named {
    /// The image.
    pub image: ImageRecord,
    /// Normalised references.
    pub names: Vec<String>,
}

/// An image with its documents generated and its layers checked to exist.
struct Ready {
    manifest: Vec<u8>,
    platform: Platform,
    config: (Digest, Vec<u8>),
    layers: Vec<(LayerRecord, u64)>,
}

/// One image, or several and their index, with the names that stand for them.
struct Group {
    names: Vec<String>,
    images: Vec<Ready>,
    index: Option<Vec<u8>>,
}

/// Writes `images` to `target`, and removes it on failure.
///
/// # Errors
/// `Exists` when the target exists; `Corrupt` when an image is damaged; `Unsupported` when a layer's tar cannot be
/// rebuilt; else the error of writing.
pub fn export(store: &Store, images: Vec<Named>, format: Format, target: Target) -> Result<()> {
    let groups = images.into_iter().map(|named| prepare(store, named)).collect::<Result<Vec<Group>>>()?;
    let mut sink = target.open()?;
    write(store, &groups, format, &mut sink).map_err(|e| e.doing("export"))?;
    sink.finish()
}

fn prepare(store: &Store, Named { image, names }: Named) -> Result<Group> {
    let doing = || format!("export image {}", names.first().unwrap_or(&image.id.to_string()));
    let prepare = || -> Result<Group> {
        let mut images = vec![ready(store, &image)?];
        for other in &image.others {
            if let Some(other) = store.image(other)? {
                images.push(ready(store, &other)?);
            }
        }
        let index = (images.len() > 1).then(|| to_bytes(&index_of(images.iter().map(described).collect())));
        Ok(Group { names: names.clone(), index: index.transpose()?, images })
    };
    prepare().map_err(|e| e.doing(doing()))
}

fn ready(store: &Store, image: &ImageRecord) -> Result<Ready> {
    let sized = store.layers(image)?.into_iter().map(|layer| {
        let bytes = store.layer_tar_bytes(&layer)?;
        Ok((layer, bytes))
    });
    let layers = sized.collect::<Result<Vec<_>>>()?;
    let manifest = manifest_of(&store.blob(&image.manifest)?, &layers)?;
    let config = (image.id, store.blob(&image.id)?);
    Ok(Ready { manifest, platform: image.platform.clone(), config, layers })
}

/// The manifest for uncompressed layers: the stored one, if it already is one.
fn manifest_of(stored: &[u8], layers: &[(LayerRecord, u64)]) -> Result<Vec<u8>> {
    let mut manifest: Value = serde_json::from_slice(stored).doing(|| "read the manifest")?;
    let contradicts = || Error::new(Kind::Corrupt, "the manifest does not match the store's layers");
    let entries = manifest["layers"].as_array().ok_or_else(contradicts)?;
    if entries.len() != layers.len() {
        return Err(contradicts());
    }
    let is_it = |(entry, (layer, size)): (&Value, &(LayerRecord, u64))| {
        entry["digest"] == json!(layer.diff_id) && entry["size"] == json!(size) && entry["mediaType"] == LAYER
    };
    if manifest["mediaType"] == MANIFEST && entries.iter().zip(layers).all(is_it) {
        return Ok(stored.to_vec());
    }
    let made = |(layer, size): &(LayerRecord, u64)| json!({"mediaType": LAYER, "digest": layer.diff_id, "size": size});
    manifest["layers"] = layers.iter().map(made).collect();
    manifest["mediaType"] = json!(MANIFEST);
    if manifest["config"]["mediaType"] == DOCKER_CONFIG {
        manifest["config"]["mediaType"] = json!(CONFIG);
    }
    serde_json::to_vec(&manifest).doing(|| "write the manifest")
}

fn to_bytes(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).doing(|| "write JSON")
}

fn write(store: &Store, groups: &[Group], format: Format, sink: &mut Sink) -> Result<()> {
    // Documents come before layers, so that a reader knows the use of each layer when it arrives.
    sink.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    sink.bytes("index.json", &to_bytes(&index_of(groups.iter().flat_map(entries).collect()))?)?;
    if format == Format::Docker {
        sink.bytes("manifest.json", &to_bytes(&docker_manifest(groups))?)?;
    }
    let mut written: BTreeSet<Digest> = BTreeSet::new();
    let images = || groups.iter().flat_map(|group| &group.images);
    let documents = images().flat_map(|image| [&image.manifest, &image.config.1]);
    for bytes in groups.iter().filter_map(|group| group.index.as_ref()).chain(documents) {
        let digest = Digest::of(bytes);
        if written.insert(digest) {
            sink.bytes(&blob(&digest), bytes)?;
        }
    }
    for (layer, size) in images().flat_map(|image| &image.layers) {
        if written.insert(layer.diff_id) {
            sink.file(&blob(&layer.diff_id), *size, &mut |out: &mut dyn Write| store.layer_tar(layer, out))?;
        }
    }
    Ok(())
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn index_of(entries: Vec<Value>) -> Value {
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
}

/// The descriptor of an image.
fn described(image: &Ready) -> Value {
    json!({
        "mediaType": MANIFEST,
        "digest": Digest::of(&image.manifest),
        "size": image.manifest.len(),
        "platform": image.platform,
    })
}

/// The entries of a group in `index.json`: one for each name, as containerd and docker write them.
fn entries(group: &Group) -> Vec<Value> {
    let plain = match (&group.index, group.images.as_slice()) {
        (Some(index), _) => json!({"mediaType": INDEX, "digest": Digest::of(index), "size": index.len()}),
        (None, [image, ..]) => described(image),
        (None, []) => return Vec::new(),
    };
    if group.names.is_empty() {
        return vec![plain];
    }
    let named = |name: &String| {
        let mut entry = plain.clone();
        entry["annotations"] = json!({"io.containerd.image.name": name});
        let tag = Reference::parse(name).ok().and_then(|name| name.tag().map(str::to_owned));
        if let Some(tag) = tag {
            entry["annotations"]["org.opencontainers.image.ref.name"] = json!(tag);
        }
        entry
    };
    group.names.iter().map(named).collect()
}

/// The `manifest.json` of `docker save`, which has no platforms: it gets the first image of a group.
fn docker_manifest(groups: &[Group]) -> Value {
    let entry = |group: &Group| {
        let image = group.images.first()?;
        let layers: Vec<String> = image.layers.iter().map(|(layer, _)| blob(&layer.diff_id)).collect();
        Some(json!({"Config": blob(&image.config.0), "RepoTags": group.names, "Layers": layers}))
    };
    groups.iter().filter_map(entry).collect()
}
