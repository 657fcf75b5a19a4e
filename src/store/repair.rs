//! The store's part of `image repair`: rewriting the journal.

use super::{Step, Store, verify};
use crate::error::Result;

/// Rewrites a damaged journal. The images of a lost record are lost; they can be imported again.
pub(super) fn journal(store: &Store) -> Result<bool> {
    if verify::state_of_journal(store)? == (false, false) {
        return Ok(false);
    }
    // This process may know more than can still be read from the file.
    let (_locked, mut now) = store.write()?;
    now.rewrite()?;
    drop(now);
    store.step(Step::Rewritten);
    Ok(true)
}
