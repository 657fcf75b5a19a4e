//! What one member of an archive says about itself.

use std::collections::BTreeMap;

use super::sparse::Sparse;

/// One member, its headers joined and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name as written: any bytes but NUL, possibly absolute or with `..`.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits with setuid, setgid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last change.
    pub mtime: Mtime,
    /// Extended attributes by full name (`user.x`).
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Bytes of data that follow in the stream; for a sparse file only what is stored.
    pub size: u64,
    /// Where the data belongs when the file has holes.
    pub sparse: Option<Sparse>,
}

/// The types of member a layer may hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// Another name for an earlier member, whose name this is.
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

/// The number of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Device {
    /// Which driver; at most 12 bits on Linux.
    pub major: u32,
    /// Which device of that driver; at most 20 bits on Linux.
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

/// How much one member may make the reader hold in memory.
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
