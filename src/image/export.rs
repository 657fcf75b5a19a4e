//! `image export`: images out of the store, as an OCI layout or as what `docker save` writes.
//!
//! The store keeps no compressed layers; the tars are made again, equal to the last bit, and go out uncompressed. So
//! configuration, image id and every diffID stay. The manifest stays too if it named uncompressed layers, as that of
//! any export does; else it is written for them. The same images always make the same archive.

mod sink;

use std::collections::BTreeSet;
use std::io::Write;

use serde_json::{Value, json};

pub use sink::Target;

use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::store::reference::Reference;
use crate::store::{ImageRecord, LayerRecord, Store};
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

/// An image and the names it goes out under.
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
    config: (Digest, Vec<u8>),
    layers: Vec<(LayerRecord, u64)>,
    named: Named,
}

/// Writes `images` to `target`, where nothing is left when it fails.
///
/// # Errors
/// `Exists` when something stands there; `Corrupt` when an image is damaged; `Unsupported` when a layer cannot be made
/// again; else what writing gives.
pub fn export(store: &Store, images: Vec<Named>, format: Format, target: Target) -> Result<()> {
    let ready = images.into_iter().map(|named| prepare(store, named)).collect::<Result<Vec<Ready>>>()?;
    let mut sink = target.open()?;
    write(store, &ready, format, &mut sink).map_err(|e| e.doing("export"))?;
    sink.finish()
}

fn prepare(store: &Store, named: Named) -> Result<Ready> {
    let image = &named.image;
    let doing = || format!("export image {}", named.names.first().unwrap_or(&image.id.to_string()));
    let prepare = || -> Result<Ready> {
        let layers = store.layers(image)?;
        let sized = layers.into_iter().map(|layer| {
            let bytes = store.layer_tar_bytes(&layer)?;
            Ok((layer, bytes))
        });
        let layers = sized.collect::<Result<Vec<_>>>()?;
        let manifest = manifest_of(&store.blob(&image.manifest)?, &layers)?;
        let config = (image.id, store.blob(&image.id)?);
        Ok(Ready { manifest, config, layers, named: named.clone() })
    };
    prepare().map_err(|e| e.doing(doing()))
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

fn write(store: &Store, ready: &[Ready], format: Format, sink: &mut Sink) -> Result<()> {
    // Documents before layers: a reader then knows what each layer is for when it comes by.
    sink.bytes("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let to_bytes = |value: &Value| serde_json::to_vec(value).doing(|| "write JSON");
    sink.bytes("index.json", &to_bytes(&index_of(ready))?)?;
    if format == Format::Docker {
        sink.bytes("manifest.json", &to_bytes(&docker_manifest(ready))?)?;
    }
    let mut written: BTreeSet<Digest> = BTreeSet::new();
    for image in ready {
        let (id, config) = &image.config;
        for (digest, bytes) in [(Digest::of(&image.manifest), &image.manifest), (*id, config)] {
            if written.insert(digest) {
                sink.bytes(&blob(&digest), bytes)?;
            }
        }
    }
    for (layer, size) in ready.iter().flat_map(|image| &image.layers) {
        if written.insert(layer.diff_id) {
            sink.file(&blob(&layer.diff_id), *size, &mut |out: &mut dyn Write| store.layer_tar(layer, out))?;
        }
    }
    Ok(())
}

fn blob(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// `index.json`: an entry for each name, in the way of containerd and docker.
fn index_of(ready: &[Ready]) -> Value {
    let mut entries = Vec::new();
    for image in ready {
        let plain = json!({
            "mediaType": MANIFEST,
            "digest": Digest::of(&image.manifest),
            "size": image.manifest.len(),
            "platform": image.named.image.platform,
        });
        if image.named.names.is_empty() {
            entries.push(plain.clone());
        }
        for name in &image.named.names {
            let mut entry = plain.clone();
            entry["annotations"] = json!({"io.containerd.image.name": name});
            let tag = Reference::parse(name).ok().and_then(|name| name.tag().map(str::to_owned));
            if let Some(tag) = tag {
                entry["annotations"]["org.opencontainers.image.ref.name"] = json!(tag);
            }
            entries.push(entry);
        }
    }
    json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries})
}

/// The `manifest.json` of `docker save`.
fn docker_manifest(ready: &[Ready]) -> Value {
    let entry = |image: &Ready| {
        let layers: Vec<String> = image.layers.iter().map(|(layer, _)| blob(&layer.diff_id)).collect();
        json!({"Config": blob(&image.config.0), "RepoTags": image.named.names, "Layers": layers})
    };
    ready.iter().map(entry).collect()
}
