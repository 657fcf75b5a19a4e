//! Applying one layer: a tar stream in, a directory in overlayfs form out, in one pass (image-spec layer.md).
//!
//! Memory does not grow with the layer but for its directories, whose modes and times must wait for the end. Nothing
//! outside the directory is ever reached: `tree.rs` says how. What stays behind after an error is the caller's to delete.
//!
//! ```text
//! stream -> Decoder -> digest -> tar::Archive -> Putter -> Tree (the directory)
//! ```

mod attributes;
mod decoder;
mod limits;
mod log;
mod lookup;
mod name;
mod prove;
mod put;
mod tree;
mod whiteout;

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use serde::{Deserialize, Serialize};

pub(super) use attributes::work_alone;
pub use decoder::Decoder;
pub use limits::Limits;
pub use prove::apply_and_prove;
pub(super) use put::look_around;

use super::digest::{Digest, Hasher};
use super::tar::{Archive, shown};
use crate::error::{Error, Kind, Result};

/// What a layer turned out to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The digest of the whole uncompressed stream, what follows the archive's end included.
    pub diff_id: Digest,
    /// Members of the archive, whiteouts included.
    pub entries: u64,
    /// Bytes of file data written.
    pub bytes: u64,
    /// Some directory was made that the layer does not describe, so its attributes should come from the layers below.
    pub implicit_dirs: bool,
    /// The root is marked opaque. Overlayfs ignores that mark on a root: leave the layers below out of the mount.
    pub hides_all_lower: bool,
    /// What could not be done, but does not spoil the layer.
    pub warnings: Vec<String>,
}

/// Unpacks the layer in `stream`, plain or compressed, into the empty directory `root`.
///
/// `on_progress` is told, about every 64 KiB, how many uncompressed bytes were read so far. Memory beyond the decoder's
/// is about 64 KiB and 200 bytes per directory.
///
/// # Errors
/// `Corrupt` for a damaged stream, `Invalid` for one that breaks the rules or the limits; for a hard link whose target
/// only a lower layer may have, see [`lower_link`]; else what reading or the kernel gave. The directory then holds part of
/// the layer and is to be deleted.
pub fn apply(
    stream: impl Read,
    root: BorrowedFd<'_>,
    limits: &Limits,
    on_progress: &mut dyn FnMut(u64),
) -> Result<Applied> {
    apply_recorded(stream, root, None, limits, on_progress)
}

/// As [`apply`]; also writes the layer's record to the empty file `index`.
///
/// # Errors
/// As [`apply`], and when the record cannot be written.
pub fn apply_recorded(
    stream: impl Read,
    root: BorrowedFd<'_>,
    index: Option<File>,
    limits: &Limits,
    on_progress: &mut dyn FnMut(u64),
) -> Result<Applied> {
    let log = log::Log::new(index)?;
    let tree = tree::Tree::new(root, limits.directory_bytes, log.clone())?;
    let mut putter = put::Putter::new(tree, limits, log.clone());
    let decoder = Decoder::with_limits(stream, limits);
    let tap = Tap { inner: decoder, hasher: Hasher::new(), seen: 0, most: limits.bytes, on_progress };
    let mut archive = Archive::new(tap, limits.tar);
    if log.is_on() {
        let log = log.clone();
        archive = archive.telling(Box::new(move |bytes| log.raw(bytes)));
    }
    while let Some(entry) = archive.next_entry()? {
        putter.put(&entry, &mut archive)?;
    }
    let diff_id = archive.finish()?.hasher.finish();
    let implicit_dirs = putter.finish_dirs()?;
    let applied = putter.applied(diff_id, implicit_dirs);
    log.finish(diff_id)?;
    Ok(applied)
}

/// Hashes, counts and bounds what passes.
struct Tap<'p, R> {
    inner: R,
    hasher: Hasher,
    seen: u64,
    most: u64,
    on_progress: &'p mut dyn FnMut(u64),
}

impl<R: Read> Read for Tap<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.seen += count as u64;
        if self.seen > self.most {
            let most = self.most;
            let error = Error::invalid(format!("the layer has more than {most} bytes when uncompressed"));
            return Err(io::Error::other(error));
        }
        (self.on_progress)(self.seen);
        Ok(count)
    }
}

/// A hard link whose target this layer does not have before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerLink {
    /// The link.
    pub name: Vec<u8>,
    /// What it should be another name of.
    pub target: Vec<u8>,
}

impl LowerLink {
    fn into_error(self) -> Error {
        Error::new(Kind::Unsupported, "its target is not in the layer before it")
            .because(self)
            .hint("the target may be in a lower layer; rebuild the image so that each layer is complete")
    }
}

impl fmt::Display for LowerLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is a hard link to \"{}\"", shown(&self.name), shown(&self.target))
    }
}

impl std::error::Error for LowerLink {}

/// Whether `error` came from a hard link into what may be a lower layer, and which.
pub fn lower_link(error: &Error) -> Option<&LowerLink> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(link) = error.downcast_ref() {
            return Some(link);
        }
        next = error.source();
    }
    None
}
