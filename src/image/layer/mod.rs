//! Applies one layer: reads a tar stream and writes a directory in overlayfs form, in one pass (image-spec layer.md).
//!
//! Memory does not grow with the layer except for its directories, whose modes and times are set at the end. Nothing
//! outside the directory is ever reached: see `tree.rs`. After an error the caller deletes the remains.
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
pub(super) use put::cache_user_namespace;

use super::digest::{Digest, Hasher};
use super::tar::{Archive, shown};
use crate::error::{Error, Kind, Result};

/// The result of applying a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied {
    /// The digest of the whole uncompressed stream, including the bytes after the archive's end.
    pub diff_id: Digest,
    /// Members of the archive, whiteouts included.
    pub entries: u64,
    /// Bytes of file data written.
    pub bytes: u64,
    /// True if a directory was created that the layer does not describe; it should inherit the attributes of the layers
    /// below.
    pub implicit_dirs: bool,
    /// The root is marked opaque. Overlayfs ignores that mark on a root: leave the layers below out of the mount.
    pub hides_all_lower: bool,
    /// Attributes that could not be set, without spoiling the layer.
    pub warnings: Vec<String>,
}

/// Unpacks the layer in `stream`, plain or compressed, into the empty directory `root`.
///
/// `on_progress` is called, about every 64 KiB, with the number of uncompressed bytes read so far. Memory beyond the
/// decoder's is about 64 KiB and 200 bytes per directory.
///
/// # Errors
/// `Corrupt` for a damaged stream, `Invalid` for one that breaks the rules or the limits; for a hard link whose target
/// may be in a lower layer, see [`lower_link`]; else the error of reading or of the kernel. The directory then holds
/// part of the layer and must be deleted.
pub fn apply(
    stream: impl Read,
    root: BorrowedFd<'_>,
    limits: &Limits,
    on_progress: &mut dyn FnMut(u64),
) -> Result<Applied> {
    apply_recorded(stream, root, None, limits, on_progress)
}

/// Like [`apply`], and also writes the layer's record to the empty file `index`.
///
/// # Errors
/// Those of [`apply`], and when the record cannot be written.
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
        archive = archive.with_raw(Box::new(move |bytes| log.raw(bytes)));
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

/// Hashes, counts and limits the stream.
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

/// A hard link whose target does not precede it in this layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LowerLink {
    /// The name of the link.
    pub name: Vec<u8>,
    /// The name of its target.
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

/// The hard link into a possible lower layer that caused `error`, if one did.
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
