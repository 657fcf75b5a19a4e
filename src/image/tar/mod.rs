//! Reading tar streams: ustar, pax, GNU and v7, in one pass, never trusting a size.
//!
//! Strict where readers are known to disagree, because a disagreement lets one archive be two: a malformed pax record
//! is an error and not skipped (CVE-2026-32766), a pax size always beats the header's (CVE-2025-62518), two names for one
//! entry must be equal. Names are bytes. Nothing is allocated for a size that was only claimed. The `tar-core` crate was
//! considered: it wants all metadata of a member in one slice, steps over a single zero block, and brings derive crates.

mod entry;
mod header;
mod number;
mod pax;
mod read;
mod sparse;

pub use entry::{Device, Entry, Kind, Limits, Mtime};
pub use read::{Archive, Member, Told, list};
pub use sparse::{Segment, Sparse};

/// Names in messages: escaped, and cut so that a long one does not flood the terminal.
pub(crate) fn shown(name: &[u8]) -> String {
    const LONGEST: usize = 200;
    if name.len() <= LONGEST {
        return name.escape_ascii().to_string();
    }
    format!("{}...", name[..LONGEST].escape_ascii())
}
