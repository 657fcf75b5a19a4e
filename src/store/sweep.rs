//! Rolls back dead work: at open and by `image gc`, data goes that belongs to no record of the journal and to no living
//! transaction.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::error::{Kind, Result};

use super::layers::LayerStore;
use super::lock::try_lock;
use super::lost::{self, list};
use super::record::{Event, LayerId};
use super::{Cleared, Contents, Now, Store, gc, verify};

/// Sweeps, unless another process is writing right now: then a later open will do it.
pub(super) fn sweep(store: &Store) -> Result<()> {
    let locked = match try_lock(&store.path("lock")) {
        Ok(locked) => locked,
        // A store on a file system mounted read-only can still be read.
        Err(error) if error.kind() == Kind::Denied => return Ok(()),
        Err(error) => return Err(error),
    };
    if locked.is_some() {
        let mut now = store.refresh()?;
        let cleared = &mut Cleared::default();
        let kept = sweep_transactions(store, &now, cleared)?;
        if !now.damaged {
            verify::after_boot(store, &mut now)?;
            sweep_layers(store, &mut now, &kept, cleared)?;
            sweep_blobs(store, &now, cleared)?;
        }
    }
    Ok(())
}

/// Moves dead transactions to the trash; returns the layers that living ones rely on.
///
/// The caller holds the store's lock, so no transaction begins meanwhile.
pub(super) fn sweep_transactions(
    store: &Store,
    now: &Contents,
    cleared: &mut Cleared,
) -> Result<BTreeSet<LayerId>> {
    let mut kept = BTreeSet::new();
    for path in list(&store.path("tmp"))? {
        // A temporary journal or version file that was never renamed is unused too.
        if !path.is_dir() || try_lock(&path)?.is_some() {
            discard_placed(store, now, &path, cleared)?;
            store.trash.take(&path)?;
            cleared.transactions += 1;
        } else {
            kept.extend(kept_by(&path)?);
        }
    }
    Ok(kept)
}

/// Discards the layers that a dead transaction placed without a record. Its directory still accounts for them, so they
/// go first.
fn discard_placed(store: &Store, now: &Contents, transaction: &Path, cleared: &mut Cleared) -> Result<()> {
    if now.damaged {
        return Ok(());
    }
    let placed = lost::announced_by(transaction)?;
    let present: BTreeSet<LayerId> = store.layers.present()?.into_iter().collect();
    for id in placed.into_iter().filter(|id| present.contains(id) && !now.layers.contains_key(id)) {
        if !now.lost.contains(&id) {
            gc::discard(store, id, cleared)?;
        }
    }
    Ok(())
}

/// The layers a transaction relies on, from its `keep-<n>` files.
fn kept_by(transaction: &Path) -> Result<Vec<LayerId>> {
    let number =
        |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("keep-")?.parse().ok().map(LayerId);
    Ok(list(transaction)?.iter().filter_map(number).collect())
}

/// Discards layers without an image, and directories that no record names.
pub(super) fn sweep_layers(
    store: &Store,
    now: &mut Now<'_>,
    kept: &BTreeSet<LayerId>,
    cleared: &mut Cleared,
) -> Result<()> {
    let mut unused = now.unused_layers(&BTreeSet::new());
    unused.retain(|layer| !kept.contains(layer));
    // A damaged layer that was replaced may still be mounted.
    if !unused.is_empty() && gc::is_in_use(store)? {
        unused.retain(|layer| now.layers.get(layer).is_some_and(|layer| !layer.damaged));
    }
    if !unused.is_empty() {
        now.commit(Event::Remove {
            names: Vec::new(),
            images: Vec::new(),
            layers: unused.into_iter().collect(),
        })?;
    }
    for layer in store.layers.present()? {
        if !now.layers.contains_key(&layer) && !now.lost.contains(&layer) {
            gc::discard(store, layer, cleared)?;
        }
    }
    Ok(())
}

/// Deletes blobs without an image; those of a living transaction are still in its own directory.
pub(super) fn sweep_blobs(store: &Store, now: &Now<'_>, cleared: &mut Cleared) -> Result<()> {
    if !now.lost.is_empty() {
        // They may be the documents of lost layers.
        return Ok(());
    }
    let used: BTreeSet<OsString> = now
        .images
        .values()
        .flat_map(|image| [image.id, image.manifest])
        .map(|digest: Digest| digest.hex().into())
        .collect();
    for path in list(&store.path("blobs/sha256"))? {
        if path.file_name().is_some_and(|name| !used.contains(name)) {
            store.trash.take(&path)?;
            cleared.blobs += 1;
        }
    }
    Ok(())
}
