//! What the journal says: images, layers and the events that bring and take them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The number of a layer in this store: the name of its directory. A number is never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(pub(crate) u64);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The machine an image is for, in the words of Go: `linux`, `arm`, `v7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// GOOS.
    pub os: String,
    /// GOARCH.
    pub architecture: String,
    /// The generation of the CPU, where it matters: `v5` to `v8` on ARM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |variant| write!(f, "/{variant}"))
    }
}

/// An image that is whole in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of its configuration: what people call the image's id.
    pub id: Digest,
    /// The digest of its manifest: what the store keeps it under.
    pub manifest: Digest,
    /// Normalised references, sorted: `docker.io/library/busybox:latest`.
    pub names: Vec<String>,
    /// What registries know it by, sorted: `docker.io/library/busybox@sha256:...`, the digest being that of its manifest
    /// or of an index that leads to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repo_digests: Vec<String>,
    /// What it runs on.
    pub platform: Platform,
    /// The manifests of the images for other platforms that its names stand for as well, as far as they were wanted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Digest>,
    /// Bytes of all its files, unpacked. Layers shared with other images count in each.
    pub size_bytes: u64,
    /// Its layers, base first.
    pub layers: Vec<LayerId>,
    /// How many of them, from the base, are hidden whole by one above that marks the root opaque.
    #[serde(default)]
    pub hidden: usize,
    /// When it came in, in seconds since the epoch.
    pub imported_at: u64,
}

/// A layer that is whole in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Its number.
    pub id: LayerId,
    /// The verified digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Set when the tree also took something from the layers below (attributes of directories that the tar leaves
    /// out, targets of hard links): the chain it is good for, itself included. Otherwise it is good on any base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Digest>,
    /// It hides all layers below. Overlayfs ignores the mark on a root, so these must be left out of the mount.
    #[serde(default)]
    pub hides_all_lower: bool,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// How many tar entries it was made from.
    pub entries: u64,
    /// Digests of the compressed blobs known to hold it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Digest>,
    /// Something in it is not as it was unpacked. It stays until the same layer comes in again and takes its place.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// The boot (`/proc/sys/kernel/random/boot_id`) during which it came in, until it was looked at once in a later one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

impl LayerRecord {
    /// Whether this layer is the one with `diff_id`, seen from a place in an image whose chain so far is `chain`. A
    /// damaged one is none.
    pub fn fits(&self, diff_id: &Digest, chain: &Digest) -> bool {
        !self.damaged && self.diff_id == *diff_id && self.chain.as_ref().is_none_or(|own| own == chain)
    }
}

/// One record of the journal: all of it happened, or nothing.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// All there is: the first record after a compaction.
    Snapshot { next_layer: u64, layers: Vec<LayerRecord>, images: Vec<ImageRecord> },
    /// Images came in. Their names are taken from other images; `blobs` says which layer a blob holds.
    Commit { layers: Vec<LayerRecord>, images: Vec<ImageRecord>, blobs: Vec<(Digest, LayerId)> },
    /// Layers were looked at: these are damaged, those are as they were unpacked.
    Looked { damaged: Vec<LayerId>, sound: Vec<LayerId> },
    /// Names, images (by manifest) and layers went away.
    Remove { names: Vec<String>, images: Vec<Digest>, layers: Vec<LayerId> },
}

/// The identity of a stack of layers: of the first it is the diffID, then `sha256(chain + " " + diffID)`.
///
/// SPEC(image 1.1 config.md #layer-chainid)
pub fn chain_id(below: Option<&Digest>, diff_id: &Digest) -> Digest {
    below.map_or(*diff_id, |below| Digest::of(format!("{below} {diff_id}").as_bytes()))
}
