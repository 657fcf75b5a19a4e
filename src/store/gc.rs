//! `image gc` and `image prune`: remove unused data and free its space.

use std::collections::BTreeSet;

use serde::Serialize;

use super::layers::LayerStore;
use super::lock::lock;
use super::record::Event;
use super::remove::Removed;
use super::{Step, Store, hold, sweep};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};

/// The number of things removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Cleared {
    /// Directories of transactions whose process is dead.
    pub transactions: u64,
    /// Layers without an image.
    pub layers: u64,
    /// Manifests and configurations without an image.
    pub blobs: u64,
    /// Trees and files deleted from the trash, also those of earlier work.
    pub trash: u64,
}

/// Sweeps after waiting for writers, and empties the trash; with `lost`, also deletes the layers whose records are lost.
pub(super) fn gc(store: &Store, lost: bool) -> Result<Cleared> {
    let locked = lock(&store.path("lock"), super::How::Exclusive)?;
    let mut now = store.refresh()?;
    if now.damaged {
        let damaged = "the journal has lost a record, so data that no record names may belong to an image";
        return Err(Error::new(Kind::Corrupt, damaged).hint("coracle image repair"));
    }
    let mut cleared = Cleared::default();
    let kept = sweep::sweep_transactions(store, &now, &mut cleared)?;
    store.step(Step::Swept);
    if lost && !now.lost.is_empty() {
        let layers = now.lost.iter().copied().collect();
        now.commit(Event::Remove { names: Vec::new(), images: Vec::new(), layers })?;
    }
    sweep::sweep_layers(store, &mut now, &kept, &mut cleared)?;
    sweep::sweep_blobs(store, &now, &mut cleared)?;
    drop(now);
    drop(locked);
    store.step(Step::Trashed);
    cleared.trash = store.trash.empty()?;
    Ok(cleared)
}

/// Removes the images without a name, or with `all` those that no container uses.
pub(super) fn prune(store: &Store, all: bool) -> Result<Vec<Removed>> {
    let used: BTreeSet<Digest> = hold::holders(store)?.into_iter().map(|(_, image)| image).collect();
    let images = store.images()?;
    let named = images.iter().filter(|image| !image.names.is_empty());
    let meant: BTreeSet<Digest> = named.flat_map(|image| &image.others).copied().collect();
    let is_needless = |image: &&super::ImageRecord| {
        !used.contains(&image.manifest) && (all || image.names.is_empty() && !meant.contains(&image.manifest))
    };
    let unused: Vec<String> =
        images.iter().filter(is_needless).map(|image| image.manifest.to_string()).collect();
    if unused.is_empty() { Ok(Vec::new()) } else { store.remove(&unused) }
}

/// Returns whether a container exists: a damaged layer that no image has is discarded only when no container can still
/// have it mounted.
pub(super) fn is_in_use(store: &Store) -> Result<bool> {
    Ok(!hold::holders(store)?.is_empty())
}

/// Empties the trash and returns the free space after that.
pub(super) fn free_bytes(store: &Store) -> Result<Free> {
    use crate::error::Doing;
    let stat = rustix::fs::statvfs(&store.root).doing(|| format!("inspect {}", store.root.display()))?;
    Ok(Free { bytes: stat.f_bavail * stat.f_frsize, total: stat.f_blocks * stat.f_frsize })
}

/// The space on the file system of the store, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Free {
    pub(super) bytes: u64,
    pub(super) total: u64,
}

impl Free {
    /// The bytes to leave to the rest of the machine: a board whose disk is full stops working.
    pub(super) fn reserve(self) -> u64 {
        (self.total / 64).min(64 << 20)
    }
}

/// Refuses when `bytes` more would use up part of the reserve.
pub(super) fn ensure_room(store: &Store, bytes: u64) -> Result<()> {
    let mut free = free_bytes(store)?;
    if bytes.saturating_add(free.reserve()) > free.bytes {
        store.trash.empty()?;
        free = free_bytes(store)?;
    }
    let reserve = free.reserve();
    if bytes.saturating_add(reserve) <= free.bytes {
        return Ok(());
    }
    let doing = format!(
        "no room in {}: about {bytes} bytes are needed and {reserve} kept free, {} are free",
        store.root.display(),
        free.bytes
    );
    Err(Error::new(Kind::System, doing)
        .hint("free some space, for example with `coracle image prune -a`; nothing of this image was stored"))
}

/// Discards a layer that no record names.
pub(super) fn discard(store: &Store, layer: super::LayerId, cleared: &mut Cleared) -> Result<()> {
    cleared.layers += 1;
    store.layers.discard(layer)
}
