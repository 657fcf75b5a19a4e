//! The store's own part of `image repair`: the journal, and what a healed layer leaves behind.

use super::{Step, Store, verify};
use crate::error::Result;

/// Writes a damaged journal anew. What a lost record brought in is lost; it can be brought in again.
pub(super) fn journal(store: &Store) -> Result<bool> {
    if verify::state_of_journal(store)? == (false, false) {
        return Ok(false);
    }
    // What this process knows may be more than what can still be read.
    let (_locked, mut now) = store.write()?;
    now.rewrite()?;
    drop(now);
    store.step(Step::Rewritten);
    Ok(true)
}
