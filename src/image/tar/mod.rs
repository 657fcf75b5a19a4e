//! Reading tar streams: ustar, pax, GNU and v7, in one pass, never trusting a size.
//!
//! Strict where readers are known to disagree, because a disagreement makes two archives of one: a malformed pax record
//! is an error and not skipped (CVE-2026-32766), a pax size always overrides the header's (CVE-2025-62518), two names
//! for one entry must be equal. Names are bytes. No memory is allocated for a size that was only claimed. The
//! `tar-core` crate was considered, but it needs all metadata of a member in one slice, skips a single zero block, and
//! depends on derive crates.

mod entry;
mod header;
mod number;
mod pax;
mod read;
mod sparse;

pub use entry::{Device, Entry, Kind, Limits, Mtime};
pub use read::{Archive, Member, RawBytes, list};
pub use sparse::{Segment, Sparse};

/// A name for messages: escaped, and cut so that a long one does not flood the terminal.
pub(crate) fn shown(name: &[u8]) -> String {
    const LONGEST: usize = 200;
    if name.len() <= LONGEST {
        return name.escape_ascii().to_string();
    }
    format!("{}...", name[..LONGEST].escape_ascii())
}
