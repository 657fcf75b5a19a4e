//! A member of an archive.

use std::collections::BTreeMap;

use super::sparse::Sparse;

/// One member, its headers merged and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as written: any bytes but NUL, possibly absolute or with `..`.
    pub name: Vec<u8>,
    /// The type of the member.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// The owner's user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// Modification time.
    pub mtime: Mtime,
    /// Extended attributes by full name (`user.x`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes of data in the stream; for a sparse file only the stored ones.
    pub size: u64,
    /// The positions of the data in a file with holes.
    pub sparse: Option<Sparse>,
}

/// The member types that a layer may contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name for the earlier member of this name.
    HardLink(Vec<u8>),
    /// A symbolic link with this target.
    Symlink(Vec<u8>),
    /// A character device.
    Char(Device),
    /// A block device.
    Block(Device),
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// The driver; at most 12 bits on Linux.
    pub major: u32,
    /// The device of that driver; at most 20 bits on Linux.
    pub minor: u32,
}

/// A point in time: seconds since 1970, possibly before it, and nanoseconds after that second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mtime {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// Limits of the memory that one member may need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of pax and GNU long-name headers for one member.
    pub metadata_bytes: u32,
    /// Bytes of a name or a link target.
    pub path_bytes: u32,
    /// Pieces of a sparse file (CVE-2025-58183).
    pub sparse_segments: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { metadata_bytes: 1 << 20, path_bytes: 16 << 10, sparse_segments: 10_000 }
    }
}
