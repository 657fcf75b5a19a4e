//! Layers on disk that the journal cannot account for, because it has lost its records.
//!
//! A layer has a number that the journal does not know yet only from its rename to `layers/<n>` until its record is
//! written. Its transaction announces that with a file `place-<n>` in its own directory. A layer with such a number and
//! without that file shows that the journal has lost its last records, or all of them.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

use super::layers::LayerStore;
use super::record::{Event, LayerId};
use super::{Contents, Store, View};

/// Announces in the directory of a transaction that it places layer `id`.
pub(super) fn announce(transaction: &Path, id: LayerId) -> Result<()> {
    let path = transaction.join(format!("place-{id}"));
    private::create(&path, private::FILE).map(drop).doing(|| format!("make {}", path.display()))
}

/// The layers that a transaction announced.
pub(super) fn announced_by(transaction: &Path) -> Result<Vec<LayerId>> {
    let number =
        |path: &PathBuf| path.file_name()?.to_str()?.strip_prefix("place-")?.parse().ok().map(LayerId);
    Ok(list(transaction)?.iter().filter_map(number).collect())
}

/// The layers on disk that neither the journal nor a transaction accounts for.
///
/// Without the store's lock, a commit that ends meanwhile may add one; [`check`] excludes that.
pub(super) fn unaccounted(store: &Store, contents: &Contents) -> Result<BTreeSet<LayerId>> {
    let is_unknown = |id: &LayerId| id.0 >= contents.next_layer && !contents.lost.contains(id);
    let mut found: BTreeSet<LayerId> = store.layers.present()?.into_iter().filter(is_unknown).collect();
    if !contents.images.is_empty() {
        // A directory without the record of its paths never was a whole layer.
        found.retain(|id| store.layers.index(*id).exists());
    }
    if found.is_empty() {
        return Ok(found);
    }
    for transaction in list(&store.path("tmp"))? {
        for id in announced_by(&transaction)? {
            found.remove(&id);
        }
    }
    Ok(found)
}

/// Refuses a store whose journal is lost, and notes in `view` that records are lost.
pub(super) fn check(store: &Store, view: &mut View) -> Result<()> {
    let first = unaccounted(store, &view.contents)?;
    if first.is_empty() {
        return Ok(());
    }
    // A commit that ended while the directories were read has written its record, or discarded its layers.
    store.read_on(view)?;
    let found = unaccounted(store, &view.contents)?.intersection(&first).count();
    if found == 0 {
        return Ok(());
    }
    if !view.contents.images.is_empty() || !view.contents.layers.is_empty() {
        view.contents.damaged = true;
        return Ok(());
    }
    let layers = if found == 1 { "1 layer".to_owned() } else { format!("{found} layers") };
    let journal = store.path("journal");
    let doing = format!(
        "the journal {} is missing or unreadable, but the store has {layers}; nothing was changed",
        journal.display()
    );
    Err(Error::new(Kind::Corrupt, doing)
        .hint("`coracle image repair` rebuilds what it can from the layers and documents in the store"))
}

/// Writes to the journal which layers its lost records named. Later commits use higher numbers, after which these
/// layers would look like removed ones.
pub(super) fn record(store: &Store) -> Result<()> {
    if !store.refresh()?.damaged {
        return Ok(());
    }
    let (_locked, mut now) = match store.write() {
        Err(error) if error.kind() == Kind::Denied => return Ok(()),
        other => other?,
    };
    let lost = unaccounted(store, &now)?;
    if !lost.is_empty() {
        // On a full disk nothing else is committed either, and the next open tries again.
        let _ = now.commit(Event::Lost { layers: lost.into_iter().collect() });
    }
    Ok(())
}

/// The entries of a directory; none when it was removed meanwhile or is a file.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("list {}", dir.display());
    match std::fs::read_dir(dir) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            Ok(Vec::new())
        }
        entries => entries.doing(doing)?.map(|entry| Ok(entry.doing(doing)?.path())).collect(),
    }
}
