//! The journal's vocabulary: images, layers, and the events that add and remove them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The number of a layer in this store: the name of its directory. Numbers are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LayerId(pub(crate) u64);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The platform of an image, in Go's terms: `linux`, `arm`, `v7`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Platform {
    /// Go's GOOS.
    pub os: String,
    /// Go's GOARCH.
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

/// A complete image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// The digest of its configuration, which users call the image's id.
    pub id: Digest,
    /// The digest of its manifest, the key in the store.
    pub manifest: Digest,
    /// Normalised references, sorted: `docker.io/library/busybox:latest`.
    pub names: Vec<String>,
    /// Its names by digest at registries, sorted: `docker.io/library/busybox@sha256:...`, with the digest of its
    /// manifest or of an index that leads to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repo_digests: Vec<String>,
    /// The platform that it runs on.
    pub platform: Platform,
    /// The manifests of the images for other platforms under the same names, as far as they were imported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub others: Vec<Digest>,
    /// Bytes of all its files, unpacked. Layers shared with other images count in each.
    pub size_bytes: u64,
    /// Its layers, base first.
    pub layers: Vec<LayerId>,
    /// How many layers, from the base, are hidden completely by one above that marks the root opaque.
    #[serde(default)]
    pub hidden: usize,
    /// The time of the import, in seconds since the epoch.
    pub imported_at: u64,
}

/// A complete layer in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerRecord {
    /// Its number in this store.
    pub id: LayerId,
    /// The verified digest of its uncompressed tar.
    pub diff_id: Digest,
    /// Set when the tree also inherited something from the layers below (attributes of directories that the tar leaves
    /// out, targets of hard links): the only chain where it is usable, itself included. Otherwise it is usable on any
    /// base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chain: Option<Digest>,
    /// It hides all layers below. Overlayfs ignores the mark on a root, so these must be left out of the mount.
    #[serde(default)]
    pub hides_all_lower: bool,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// The number of entries of its tar.
    pub entries: u64,
    /// Digests of the compressed blobs known to contain it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blobs: Vec<Digest>,
    /// Quarantined: something differs from the state at unpacking. It stays until the same layer is imported again and
    /// replaces it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// The boot (`/proc/sys/kernel/random/boot_id`) of the import, until the layer was checked once in a later boot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot: Option<String>,
}

impl LayerRecord {
    /// Returns whether this layer has `diff_id` and is usable where the chain so far is `chain`. A damaged layer never
    /// is.
    pub fn fits(&self, diff_id: &Digest, chain: &Digest) -> bool {
        !self.damaged && self.diff_id == *diff_id && self.chain.as_ref().is_none_or(|own| own == chain)
    }
}

/// One record of the journal, applied completely or not at all.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// The whole contents: the first record after a compaction.
    Snapshot {
        next_layer: u64,
        layers: Vec<LayerRecord>,
        images: Vec<ImageRecord>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        lost: Vec<LayerId>,
    },
    /// Images were imported. Their names are taken from other images; `blobs` lists the layer in each blob.
    Commit { layers: Vec<LayerRecord>, images: Vec<ImageRecord>, blobs: Vec<(Digest, LayerId)> },
    /// Layers were checked: which are damaged, and which are as unpacked.
    Looked { damaged: Vec<LayerId>, sound: Vec<LayerId> },
    /// Layers on disk were found whose records the journal has lost.
    Lost { layers: Vec<LayerId> },
    /// Names, images (by manifest) and layers were removed.
    Remove { names: Vec<String>, images: Vec<Digest>, layers: Vec<LayerId> },
}

/// The chain id of a stack of layers: of the first it is the diffID, then `sha256(chain + " " + diffID)`.
///
/// SPEC(image 1.1 config.md #layer-chainid)
pub fn chain_id(below: Option<&Digest>, diff_id: &Digest) -> Digest {
    below.map_or(*diff_id, |below| Digest::of(format!("{below} {diff_id}").as_bytes()))
}
