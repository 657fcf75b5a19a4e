//! Images in containerd's own store, imported without a network: a node that changes its runtime keeps what it pulled.
//!
//! containerd keeps the names in a file of bbolt's ([`bolt`]) and the blobs in a directory that is laid out as that of an OCI
//! layout. Nothing of it is changed, and containerd may run.

mod bolt;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::document::Blobs;
use super::import::{ImportOptions, Source, import};
use super::layout::Layout;
use super::progress::{Progress, Silent};
use super::{platform, resolve};
use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::store::{ImageRecord, Store};
use bolt::{Bolt, Bucket, Value};

/// The file with the names, below containerd's root. containerd holds a lock on it (flock(2)).
pub const METADATA: &str = "io.containerd.metadata.v1.bolt/meta.db";
/// The directory with the blobs, below containerd's root.
pub const CONTENT: &str = "io.containerd.content.v1.content";
/// The namespace of the images that kubelet uses.
const NAMESPACE: &str = "k8s.io";
/// How often reading is begun again because containerd has changed the file meanwhile.
const TRIES: u32 = 20;

/// An image of containerd's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its names, without those that are only its id.
    pub names: Vec<String>,
    /// The digest of its manifest or index.
    pub target: Digest,
    media_type: String,
    size: u64,
}

/// What has to be done for an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// The store has it already.
    Present,
    /// It can be imported.
    Importable,
    /// containerd has discarded this many of its layers after unpacking them (`discard_unpacked_layers`), or never had them.
    Incomplete(usize),
}

/// containerd's store.
#[derive(Debug)]
pub struct Containerd {
    root: PathBuf,
    images: Vec<Image>,
}

impl Containerd {
    /// Reads the names in the store at `root`; `None` if there is no store.
    ///
    /// # Errors
    /// `Corrupt` for a damaged store; `Busy` if containerd changes it all the time.
    pub fn open(root: &Path) -> Result<Option<Self>> {
        let path = root.join(METADATA);
        if !path.exists() {
            return Ok(None);
        }
        let doing = || format!("read {}", path.display());
        for _ in 0..TRIES {
            let bolt = Bolt::open(&path).doing(doing)?;
            let images = images(&bolt);
            if bolt.is_current() {
                return Ok(Some(Self { root: root.to_owned(), images: images.doing(doing)? }));
            }
        }
        Err(Error::new(Kind::Busy, doing()).hint("containerd is changing it; try again, or stop containerd"))
    }

    /// The images that kubelet could use, by their first names.
    pub fn images(&self) -> &[Image] {
        &self.images
    }

    /// Whether an image can be imported into `store`; `None` for a store that does not exist yet.
    ///
    /// # Errors
    /// The image is damaged, or there is none for this machine's platform.
    pub fn availability(&self, image: &Image, store: Option<&Store>) -> Result<Availability> {
        let (layout, wanted) = (self.layout(image)?, platform::host());
        let choice = resolve::Choice { wanted: &wanted, strict: false, all: false, label: None };
        let selected = resolve::select(&layout.index()?, &layout, &choice, &Silent)?;
        let mut missing = 0;
        for one in &selected {
            if store.map(|store| store.image(&one.manifest)).transpose()?.flatten().is_some() {
                return Ok(Availability::Present);
            }
            for layer in one.parsed.layers() {
                let digest = super::document::digest_of(layer)?;
                let is_stored =
                    store.map(|store| store.layer_of_blob(&digest)).transpose()?.flatten().is_some();
                missing += usize::from(!is_stored && layout.open(&digest)?.is_none());
            }
        }
        Ok(if missing == 0 { Availability::Importable } else { Availability::Incomplete(missing) })
    }

    /// Imports an image with all its names.
    ///
    /// # Errors
    /// Those of [`import`].
    pub fn import(&self, image: &Image, store: &Store, progress: &dyn Progress) -> Result<Vec<ImageRecord>> {
        import(store, Source::Dir(self.layout(image)?), &ImportOptions::default(), progress)
    }

    /// The content as a layout whose index has this image only, so that one that is incomplete spoils no other.
    fn layout(&self, image: &Image) -> Result<Layout> {
        let entry = |name: Option<&String>| {
            let mut entry =
                json!({ "mediaType": image.media_type, "digest": image.target, "size": image.size });
            if let Some(name) = name {
                entry["annotations"] = json!({ "io.containerd.image.name": name });
            }
            entry
        };
        let mut entries: Vec<_> = image.names.iter().map(|name| entry(Some(name))).collect();
        if entries.is_empty() {
            entries.push(entry(None));
        }
        let index = json!({ "schemaVersion": 2, "manifests": entries });
        Layout::with_index(&self.root.join(CONTENT), serde_json::to_vec(&index).doing(|| "write an index")?)
    }
}

/// The images by their targets.
fn images(bolt: &Bolt) -> Result<Vec<Image>> {
    let Some(images) = bolt.bucket(&["v1", NAMESPACE, "images"])? else { return Ok(Vec::new()) };
    let mut found: BTreeMap<Digest, Image> = BTreeMap::new();
    for (name, value) in bolt.entries(&images)? {
        let (Ok(name), Value::Bucket(bucket)) = (String::from_utf8(name), value) else { continue };
        let Some(image) = target(bolt, &bucket).doing(|| format!("read the image {name:?}"))? else {
            continue;
        };
        let known = found.entry(image.target).or_insert(image);
        if !name.starts_with("sha256:") {
            known.names.push(name);
        }
    }
    let mut all: Vec<Image> = found.into_values().collect();
    all.sort_by(|a, b| a.names.cmp(&b.names));
    Ok(all)
}

/// The manifest or index that an image's bucket names; `None` for one with another digest than a sha256.
fn target(bolt: &Bolt, bucket: &Bucket) -> Result<Option<Image>> {
    let target = bolt.entries(bucket)?.into_iter().find(|(key, _)| key == b"target");
    let Some((_, Value::Bucket(target))) = target else {
        return Err(Error::new(Kind::Corrupt, "it has no target"));
    };
    let fields: BTreeMap<Vec<u8>, Value> = bolt.entries(&target)?.into_iter().collect();
    let text = |key: &str| match fields.get(key.as_bytes()) {
        Some(Value::Bytes(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        _ => String::new(),
    };
    let Ok(digest) = Digest::parse(&text("digest")) else { return Ok(None) };
    let size = match fields.get(b"size".as_slice()) {
        Some(Value::Bytes(bytes)) => varint(bytes),
        _ => None,
    };
    let size = size.ok_or_else(|| Error::new(Kind::Corrupt, "its size cannot be read"))?;
    Ok(Some(Image { names: Vec::new(), target: digest, media_type: text("mediatype"), size }))
}

/// A number as Go's `binary.PutVarint` writes it: groups of seven bits, the lowest first, with the sign in the lowest bit.
fn varint(bytes: &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for (index, byte) in bytes.iter().enumerate().take(10) {
        number |= u64::from(byte & 0x7f).checked_shl(7 * u32::try_from(index).ok()?)?;
        if byte & 0x80 == 0 {
            let is_negative = number & 1 == 1;
            return (!is_negative).then_some(number >> 1);
        }
    }
    None
}

#[cfg(test)]
mod tests;
