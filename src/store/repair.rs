//! The store's part of `image repair`: rewriting the journal.

use super::lock::{How, lock};
use super::{Step, Store, lost, salvage, verify};
use crate::digest::Digest;
use crate::error::Result;

/// The result of rewriting a damaged journal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rewritten {
    /// The manifests of images whose records were lost and have been rebuilt, without names.
    pub rebuilt: Vec<Digest>,
    /// The number of layers on disk that belong to no known image. They stay until [`Store::gc`].
    pub lost_layers: usize,
}

/// Rewrites a damaged journal; images of lost records are rebuilt from their layers and documents. Returns `None` when
/// the journal is intact.
pub(super) fn journal(store: &Store) -> Result<Option<Rewritten>> {
    if !is_damaged(store)? {
        return Ok(None);
    }
    let _locked = lock(&store.path("lock"), How::Exclusive)?;
    // This process may know more than can still be read from the file.
    let mut now = store.read()?;
    let (has_lost, _) = verify::state_of_journal(store, &now)?;
    let mut done = Rewritten::default();
    if has_lost || !lost::unaccounted(store, &now)?.is_empty() {
        done.rebuilt = salvage::salvage(store, &mut now.0.contents)?;
        done.lost_layers = now.lost.len();
    }
    now.rewrite()?;
    drop(now);
    store.step(Step::Rewritten);
    Ok(Some(done))
}

fn is_damaged(store: &Store) -> Result<bool> {
    let now = store.read()?;
    let (has_lost, is_flawed) = verify::state_of_journal(store, &now)?;
    Ok(has_lost || is_flawed || !lost::unaccounted(store, &now)?.is_empty())
}
