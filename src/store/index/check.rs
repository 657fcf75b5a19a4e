//! Comparing a layer's tree with its record.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::gone::Gone;
use super::rebuild::data;
use super::{Attributes, NAME, Node, Reader, Record, Tree};
use crate::digest::{Digest, Hasher};
use crate::error::{Doing, Error, Kind, Result, is_shortage};

/// Bytes read at once.
const BUFFER: usize = 64 << 10;

/// How thorough a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Types and sizes: these differ after a power cut on a device that reported writes as durable too early.
    Sizes,
    /// Everything, with all content read from the device.
    Content,
}

/// A difference from the state at unpacking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Flaw {
    /// The path in the layer; empty for the root.
    pub(crate) path: Vec<u8>,
    /// The difference.
    pub(crate) what: String,
}

/// The result of a check.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Checked {
    /// Paths that were compared.
    pub(crate) paths: u64,
    /// The digest at the end of the record.
    pub(crate) diff_id: Option<Digest>,
}

/// Compares the tree below `root` with its record, which is read from two descriptors of the same file, and calls
/// `flaw` for each difference.
///
/// # Errors
/// `Corrupt` when the record itself is damaged; else the system's error.
pub(crate) fn check(
    [index, again]: [File; 2],
    root: BorrowedFd<'_>,
    depth: Depth,
    flaw: &mut dyn FnMut(Flaw),
) -> Result<Checked> {
    let gone = Gone::read(index)?;
    let mut reader = Reader::new(again);
    let mut check = Check {
        tree: Tree::new(root),
        root,
        depth,
        flaw,
        found: false,
        buffer: vec![0; BUFFER],
        tar: (depth == Depth::Content).then(Hasher::new),
        expected: 0,
        seen: 0,
    };
    let (mut checked, mut number) = (Checked::default(), 0u64);
    while let Some(record) = reader.next()? {
        match &record {
            Record::Raw(bytes) => check.raw(bytes),
            Record::End { diff_id, .. } => {
                checked.diff_id = Some(*diff_id);
                check.end(diff_id);
            }
            record => {
                let path = record.path().unwrap_or_default();
                if gone.removes(path, number) {
                    check.pass_over(record);
                } else {
                    checked.paths += 1;
                    check.one(record, checked.diff_id.is_some(), &gone, number)?;
                }
            }
        }
        number += 1;
    }
    if checked.diff_id.is_none() {
        return Err(Error::new(Kind::Corrupt, format!("the layer's record {NAME} ends too early")));
    }
    if check.seen != check.expected && !check.found {
        let what = format!("it holds {} entries, its record has {}", check.seen, check.expected);
        check.report(b"", what);
    }
    Ok(checked)
}

struct Check<'a> {
    tree: Tree<'a>,
    root: BorrowedFd<'a>,
    depth: Depth,
    flaw: &'a mut dyn FnMut(Flaw),
    found: bool,
    buffer: Vec<u8>,
    /// The tar as rebuilt so far; `None` once that is impossible.
    tar: Option<Hasher>,
    /// The number of entries in directories: expected, and seen.
    expected: u64,
    seen: u64,
}

impl Check<'_> {
    fn report(&mut self, path: &[u8], what: impl Into<String>) {
        self.found = true;
        (self.flaw)(Flaw { path: path.to_vec(), what: what.into() });
    }

    fn raw(&mut self, bytes: &[u8]) {
        if let Some(tar) = &mut self.tar {
            tar.update(bytes);
        }
    }

    /// Skips a record whose object was removed again; if that was a file, its data is lost and the tar cannot be
    /// rebuilt.
    fn pass_over(&mut self, record: &Record<'_>) {
        if let Record::File { extents, .. } = record
            && extents.iter().any(|extent| extent.length > 0)
        {
            self.tar = None;
        }
    }

    fn end(&mut self, diff_id: &Digest) {
        match self.tar.take().map(Hasher::finish) {
            Some(actual) if actual != *diff_id && !self.found => {
                self.report(b"", format!("its rebuilt tar has digest {actual}"));
            }
            _ => {}
        }
    }

    fn one(&mut self, record: &Record<'_>, behind_end: bool, gone: &Gone, number: u64) -> Result<()> {
        let path = record.path().unwrap_or_default();
        if matches!(record, Record::Gone { .. }) {
            return Ok(());
        }
        // A directory has a second record if it inherited its attributes from the layers below.
        if !behind_end && !path.is_empty() {
            self.expected += 1;
        }
        let stat = match self.stat(path) {
            Ok(stat) => stat,
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {
                self.pass_over(record);
                self.report(path, "it is missing");
                return Ok(());
            }
            Err(Errno::IO | Errno::UCLEAN | Errno::BADMSG) => {
                self.pass_over(record);
                self.report(path, "it cannot be read");
                return Ok(());
            }
            Err(errno) => return Err(errno).doing(|| format!("inspect \"{}\"", path.escape_ascii())),
        };
        match self.kind(record, &stat) {
            Some(what) => {
                self.pass_over(record);
                self.report(path, what);
                return Ok(());
            }
            None if self.depth == Depth::Content => self.attributes(record, &stat)?,
            None => {}
        }
        match record {
            Record::File { extents, crc, .. } if self.depth == Depth::Content => {
                self.content(path, extents, *crc)?;
            }
            Record::Link { target, .. } if !gone.removes(target, number) => self.link(path, target, &stat)?,
            Record::Symlink { target, .. } => self.symlink(path, target)?,
            Record::Dir { opaque, .. } if !behind_end => self.directory(path, *opaque)?,
            _ => {}
        }
        Ok(())
    }

    fn stat(&mut self, path: &[u8]) -> rustix::io::Result<Stat> {
        let (dir, name) = self.tree.at(path)?;
        rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The difference of type, size or device number, if any.
    fn kind(&self, record: &Record<'_>, stat: &Stat) -> Option<String> {
        let actual = FileType::from_raw_mode(stat.st_mode);
        let device = |kind, major, minor| (kind, Some(rustix::fs::makedev(major, minor)));
        let (kind, number) = match record {
            Record::File { .. } => (FileType::RegularFile, None),
            Record::Link { .. } if actual != FileType::Directory => return None,
            Record::Symlink { .. } => (FileType::Symlink, None),
            Record::Node { node: Node::Fifo, .. } => (FileType::Fifo, None),
            Record::Node { node: Node::Char(major, minor), .. } => {
                device(FileType::CharacterDevice, *major, *minor)
            }
            Record::Node { node: Node::Block(major, minor), .. } => {
                device(FileType::BlockDevice, *major, *minor)
            }
            Record::Whiteout { .. } => device(FileType::CharacterDevice, 0, 0),
            _ => (FileType::Directory, None),
        };
        if actual != kind {
            return Some(format!("it is a {actual:?}, not a {kind:?}"));
        }
        if number.is_some_and(|number| number != stat.st_rdev) {
            return Some("its device number differs".to_owned());
        }
        match record {
            Record::File { size, .. } if *size != stat.st_size as u64 => {
                Some(format!("it has {} bytes, not {size}", stat.st_size))
            }
            _ => None,
        }
    }

    fn attributes(&mut self, record: &Record<'_>, stat: &Stat) -> Result<()> {
        let (path, wanted) = match record {
            Record::File { path, attributes, .. }
            | Record::Symlink { path, attributes, .. }
            | Record::Node { path, attributes, .. }
            | Record::Dir { path, attributes: Some(attributes), .. } => (*path, attributes),
            _ => return Ok(()),
        };
        if let Some(what) = differs(wanted, stat) {
            self.report(path, what);
        }
        if let Some(what) = self.xattrs(path, wanted)? {
            self.report(path, what);
        }
        Ok(())
    }

    /// The difference of the extended attributes that were set, if any.
    fn xattrs(&mut self, path: &[u8], wanted: &Attributes<'_>) -> Result<Option<String>> {
        if wanted.xattrs.is_empty() {
            return Ok(None);
        }
        let doing = || format!("read the attributes of \"{}\"", path.escape_ascii());
        let (dir, name) = self.tree.at(path).doing(doing)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(dir, name, flags, Mode::empty()).doing(doing)?;
        let by_number = format!("/proc/self/fd/{}", fd.as_raw_fd());
        for (key, value) in &wanted.xattrs {
            match rustix::fs::getxattr(&by_number, *key, self.buffer.as_mut_slice()) {
                Ok(length) if self.buffer[..length] == **value => {}
                Ok(_) | Err(Errno::NODATA | Errno::RANGE) => {
                    return Ok(Some(format!("its attribute {} differs", key.escape_ascii())));
                }
                Err(errno) => return Err(errno).doing(doing),
            }
        }
        Ok(None)
    }

    fn content(&mut self, path: &[u8], extents: &[super::Extent], crc: u32) -> Result<()> {
        let doing = || format!("read \"{}\"", path.escape_ascii());
        let file = self.tree.open_file(path).doing(doing)?;
        // The page cache may be intact where the flash is not.
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        let tar = &mut self.tar;
        let actual = data(file.as_fd(), extents, &mut self.buffer, &mut |piece| {
            tar.iter_mut().for_each(|tar| tar.update(piece));
            Ok(())
        });
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        match actual {
            Ok(Some(actual)) if actual == crc => {}
            Ok(_) => self.report(path, "its content differs"),
            Err(error) if error.is_shortage() => return Err(error),
            Err(error) => self.report(path, format!("its content cannot be read: {}", error.chain())),
        }
        Ok(())
    }

    fn link(&mut self, path: &[u8], target: &[u8], stat: &Stat) -> Result<()> {
        match self.stat(target) {
            Ok(other) if (other.st_dev, other.st_ino) == (stat.st_dev, stat.st_ino) => {}
            Err(errno) if is_shortage(errno.raw_os_error()) => {
                return Err(errno).doing(|| format!("inspect \"{}\"", target.escape_ascii()));
            }
            _ => self.report(path, format!("it is no longer the same file as \"{}\"", target.escape_ascii())),
        }
        Ok(())
    }

    fn symlink(&mut self, path: &[u8], target: &[u8]) -> Result<()> {
        let actual = self.tree.at(path).and_then(|(dir, name)| rustix::fs::readlinkat(dir, name, Vec::new()));
        match actual {
            Ok(actual) if actual.as_bytes() == target => {}
            Err(errno) if is_shortage(errno.raw_os_error()) => {
                return Err(errno).doing(|| format!("read the link \"{}\"", path.escape_ascii()));
            }
            _ => self.report(path, "it has another target"),
        }
        Ok(())
    }

    fn directory(&mut self, path: &[u8], opaque: bool) -> Result<()> {
        let doing = || format!("list \"{}\"", path.escape_ascii());
        let fd = super::beneath(self.root, path, OFlags::RDONLY | OFlags::DIRECTORY).doing(doing)?;
        self.seen += crate::store::entry_names(fd.as_fd()).doing(doing)?.len() as u64;
        if self.depth == Depth::Content && is_opaque(fd.as_fd()) != opaque {
            self.report(path, "its opaque mark differs");
        }
        Ok(())
    }
}

fn is_opaque(dir: BorrowedFd<'_>) -> bool {
    let mut value = [0u8; 2];
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        rustix::fs::fgetxattr(dir, *name, &mut value[..]).is_ok_and(|length| value[..length] == *b"y")
    })
}

/// The difference of mode, owner or time, if any.
fn differs(wanted: &Attributes<'_>, stat: &Stat) -> Option<String> {
    let mode = stat.st_mode & 0o7777;
    let is_link = FileType::from_raw_mode(stat.st_mode) == FileType::Symlink;
    if mode != wanted.mode && !is_link {
        return Some(format!("its mode is {mode:o}, not {:o}", wanted.mode));
    }
    if (stat.st_uid, stat.st_gid) != (wanted.uid, wanted.gid) {
        let (uid, gid) = (wanted.uid, wanted.gid);
        return Some(format!("its owner is {}:{}, not {uid}:{gid}", stat.st_uid, stat.st_gid));
    }
    // Small inodes of ext4 store no fractions of a second.
    let nanos = stat.st_mtime_nsec as u32;
    let same_time = stat.st_mtime == wanted.mtime.0 && (nanos == wanted.mtime.1 || nanos == 0);
    (!same_time).then(|| "its modification time differs".to_owned())
}
