//! `image export`: images out of the store, as an OCI layout or as what `docker save` writes.
//!
//! The store keeps no compressed layers; the tars are made again, equal to the last bit, and go out uncompressed. So
//! configuration, image id and every diffID stay. The manifest stays too if it named uncompressed layers, as that of
//! any export does; else it is written for them. The same images always make the same archive. Compressing them again
//! would not bring the old manifest back: what a compressor makes of the same bytes depends on its version and settings,
//! which no image tells.
//!
//! A name that stands for images for several platforms goes out as an index of them.

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

/// What to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// An OCI image layout.
    Oci,
    /// An OCI image layout with the `manifest.json` of `docker save`, as docker writes it since 25.
    Docker,
}

/// An image and the names it goes out under, with its [others](ImageRecord::others) as far as they are in the store.
#[derive(Debug, Clone)]
pub struct Named {
    /// The image.
    pub image: ImageRecord,
    /// Normalised references.
    pub names: Vec<String>,
}

/// An image whose documents are made and whose layers are known to be there.
struct Ready {
    manifest: Vec<u8>,
    platform: Platform,
    config: (Digest, Vec<u8>),
    layers: Vec<(LayerRecord, u64)>,
}

/// What some names stand for: an image, or several and their index.
struct Group {
    names: Vec<String>,
    images: Vec<Ready>,
    index: Option<Vec<u8>>,
}

/// Writes `images` to `target`, where nothing is left when it fails.
///
/// # Errors
/// `Exists` when something stands there; `Corrupt` when an image is damaged; `Unsupported` when a layer cannot be made
/// again; else what writing gives.
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

/// The manifest for uncompressed layers: the stored one, if it is that already.
fn manifest_of(stored: &[u8], layers: &[(LayerRecord, u64)]) -> Result<Vec<u8>> {
    let mut manifest: Value = serde_json::from_slice(stored).doing(|| "read the manifest")?;
    let contradicts = || Error::new(Kind::Corrupt, "the manifest and the store's layers do not fit");
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
    // Documents before layers: a reader then knows what each layer is for when it comes by.
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

/// What `index.json` says of a group: an entry for each name, in the way of containerd and docker.
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

/// The `manifest.json` of `docker save`, which knows no platforms: of a group it has the first image.
fn docker_manifest(groups: &[Group]) -> Value {
    let entry = |group: &Group| {
        let image = group.images.first()?;
        let layers: Vec<String> = image.layers.iter().map(|(layer, _)| blob(&layer.diff_id)).collect();
        Some(json!({"Config": blob(&image.config.0), "RepoTags": group.names, "Layers": layers}))
    };
    groups.iter().filter_map(entry).collect()
}
