//! `files.idx`: the result of unpacking a layer, path by path, and the bytes of its tar that are no file's data.
//!
//! It is written in the same pass as the files and has two uses: [`check`] compares a tree with it, and [`rebuild`]
//! makes the layer's tar again, bit for bit, so that no compressed copy has to stay on flash.
//!
//! ```text
//! file     frame*
//! frame    magic "cfi1" | raw length u32 LE | packed length u32 LE | crc32 of both lengths and payload u32 LE | payload
//! payload  zstd of whole records, about 64 KiB of them
//! ```
//! Records are in the order of the tar. A later `Gone` cancels the earlier records of a path and of all below it.
//! Directories follow all other records, in their final state; after `End` there are only those that inherited their
//! attributes from the layers below. Checksums are CRC-32: they detect bit rot, and the diffID of the whole detects
//! the rest.

mod beneath;
mod check;
mod code;
mod gone;
mod read;
mod rebuild;
mod write;

pub(crate) use beneath::{Tree, beneath};
pub(crate) use check::{Checked, Depth, Flaw, check};
pub(crate) use read::Reader;
pub(crate) use rebuild::{is_whole, rebuild, tar_bytes};
pub(crate) use write::Writer;

use crate::digest::Digest;

/// The name of the file, beside the layer's tree.
pub(crate) const NAME: &str = "files.idx";

/// Owner, mode, time and extended attributes, as they were set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes<'a> {
    /// Permission bits with setuid, setgid and sticky.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Seconds since 1970, and nanoseconds after them.
    pub(crate) mtime: (i64, u32),
    /// Only those that the kernel accepted.
    pub(crate) xattrs: Vec<(&'a [u8], &'a [u8])>,
}

/// A part of a file that has data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// The type of a special file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Node {
    Fifo,
    Char(u32, u32),
    Block(u32, u32),
}

/// One record. Paths are canonical and relative to the layer's root, which is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Record<'a> {
    /// Bytes of the tar that are no file's data.
    Raw(&'a [u8]),
    /// A file; its data is the next piece of the tar, with the CRC-32 `crc`.
    File { path: &'a [u8], attributes: Attributes<'a>, size: u64, extents: Vec<Extent>, crc: u32 },
    /// Another name of `target`.
    Link { path: &'a [u8], target: &'a [u8] },
    /// A symbolic link.
    Symlink { path: &'a [u8], attributes: Attributes<'a>, target: &'a [u8] },
    /// A device or a pipe.
    Node { path: &'a [u8], attributes: Attributes<'a>, node: Node },
    /// A directory; without attributes when no member described it.
    Dir { path: &'a [u8], attributes: Option<Attributes<'a>>, opaque: bool },
    /// A whiteout, which hides a path of the layers below.
    Whiteout { path: &'a [u8] },
    /// The object at this path was removed again, with all below it.
    Gone { path: &'a [u8] },
    /// The end of the tar.
    End { diff_id: Digest, tar_bytes: u64 },
}

impl Record<'_> {
    /// The path in the layer; none for records about the tar itself.
    pub(crate) fn path(&self) -> Option<&[u8]> {
        match self {
            Self::Raw(_) | Self::End { .. } => None,
            Self::File { path, .. }
            | Self::Link { path, .. }
            | Self::Symlink { path, .. }
            | Self::Node { path, .. }
            | Self::Dir { path, .. }
            | Self::Whiteout { path }
            | Self::Gone { path } => Some(path),
        }
    }
}
