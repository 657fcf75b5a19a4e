//! Attributes of directories that a layer inherits from the layers below it.
//!
//! A tar may leave out the directories of its files. Unpacking creates these with default attributes, and on top of the
//! layers below, those would hide the real ones: a `/tmp` of 0755 over one of 1777. Here they get the real ones.

use std::ffi::{OsStr, OsString};
use std::fs::OpenOptions;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::error::{Doing, Result};
use crate::store::index::{Attributes, Record, Writer};

const OPAQUE: &str = "trusted.overlay.opaque";
/// Attributes of overlayfs itself belong to one layer and are never copied.
const OVERLAY: &[u8] = b"trusted.overlay.";

/// Gives every directory of `root` that has only default attributes those of the same directory in `lowers`, topmost
/// first, and adds them to the layer's record at `index`.
///
/// # Errors
/// When something cannot be read or set.
pub(super) fn inherit(root: BorrowedFd<'_>, lowers: &[PathBuf], index: &Path) -> Result<()> {
    if lowers.is_empty() {
        return Ok(());
    }
    let doing = || "copy the attributes of directories from the layers below";
    let lowers = lowers.iter().map(|path| Lower::open(path)).collect::<Result<Vec<_>, _>>().doing(doing)?;
    let file = OpenOptions::new().append(true).open(index).doing(doing)?;
    let mut walk =
        Walk { dir: open(root, OsStr::new(".")).doing(doing)?, path: Vec::new(), depth: 0, lowers };
    let mut record = Writer::new(file)?;
    let mut todo = vec![names_of_directories(&walk.dir).doing(doing)?];
    while let Some(names) = todo.last_mut() {
        let Some(name) = names.pop() else {
            todo.pop();
            if walk.depth > 0 {
                walk.up().doing(doing)?;
            }
            continue;
        };
        if !walk.down(&name).doing(doing)? {
            continue;
        }
        if is_plain(&walk.dir).doing(doing)?
            && let Some(real) = walk.real()
        {
            copy_attributes(real, &walk.dir).doing(doing)?;
            note(&mut record, &walk.dir, &walk.path)?;
        }
        todo.push(names_of_directories(&walk.dir).doing(doing)?);
    }
    record.close()
}

/// A depth-first walk through a layer, with the same directory of each layer below kept open beside it.
///
/// One step costs the same at every depth, and only one directory of each layer is open: a hostile image may have
/// thousands of directories, thousands of levels deep. `..` is safe because nobody moves directories of these layers.
struct Walk {
    dir: OwnedFd,
    /// The path of `dir` below the root of the layer, without a slash at its begin.
    path: Vec<u8>,
    depth: usize,
    lowers: Vec<Lower>,
}

impl Walk {
    /// Enters the directory `name`; returns false when it is no directory.
    fn down(&mut self, name: &OsStr) -> rustix::io::Result<bool> {
        self.dir = match open(self.dir.as_fd(), name) {
            Err(Errno::NOTDIR | Errno::LOOP) => return Ok(false),
            other => other?,
        };
        for lower in &mut self.lowers {
            lower.down(self.depth, name)?;
        }
        if !self.path.is_empty() {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name.as_bytes());
        self.depth += 1;
        Ok(true)
    }

    /// Returns to the parent.
    fn up(&mut self) -> rustix::io::Result<()> {
        self.dir = open(self.dir.as_fd(), OsStr::new(".."))?;
        for lower in &mut self.lowers {
            lower.up(self.depth)?;
        }
        self.path.truncate(self.path.iter().rposition(|b| *b == b'/').unwrap_or(0));
        self.depth -= 1;
        Ok(())
    }

    /// The current directory as a mount of the layers below shows it.
    fn real(&self) -> Option<&OwnedFd> {
        for lower in &self.lowers {
            if lower.depth == self.depth {
                return Some(&lower.dir);
            }
            if lower.hides {
                return None;
            }
        }
        None
    }
}

/// The place in a layer below, as far as that layer has the directories of the walk.
struct Lower {
    dir: OwnedFd,
    /// The number of directories of the walk's path that this layer has.
    depth: usize,
    /// The least depth at which a directory is opaque.
    opaque_at: Option<usize>,
    /// This layer hides the next directory of the path, which it lacks, from the layers below it.
    hides: bool,
}

impl Lower {
    fn open(path: &Path) -> rustix::io::Result<Self> {
        Ok(Self { dir: open(CWD, path.as_os_str())?, depth: 0, opaque_at: None, hides: false })
    }

    /// Follows the walk from `depth` into `name`.
    fn down(&mut self, depth: usize, name: &OsStr) -> rustix::io::Result<()> {
        if self.depth < depth {
            return Ok(());
        }
        match open(self.dir.as_fd(), name) {
            Ok(dir) => {
                self.dir = dir;
                self.depth += 1;
                if self.opaque_at.is_none() && is_marked_opaque(&self.dir)? {
                    self.opaque_at = Some(self.depth);
                }
            }
            Err(Errno::NOENT) => self.hides = self.opaque_at.is_some(),
            // A whiteout, a file or a link in its place hides the layers below like an opaque directory.
            Err(Errno::NOTDIR | Errno::LOOP) => self.hides = true,
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    /// Follows the walk from `depth` to the parent.
    fn up(&mut self, depth: usize) -> rustix::io::Result<()> {
        if self.depth < depth {
            // The directory that this layer lacks was left.
            self.hides &= self.depth + 1 < depth;
            return Ok(());
        }
        self.dir = open(self.dir.as_fd(), OsStr::new(".."))?;
        self.depth -= 1;
        self.opaque_at = self.opaque_at.filter(|at| *at <= self.depth);
        Ok(())
    }
}

/// The names of directories in a directory, and of entries whose type the file system does not list.
fn names_of_directories(dir: &OwnedFd) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let may_be_one = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        if may_be_one && name != "." && name != ".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Adds the attributes that a directory has now to the record.
fn note(record: &mut Writer, dir: &OwnedFd, path: &[u8]) -> Result<()> {
    let doing = || "record the attributes of a directory";
    let stat = rustix::fs::fstat(dir).doing(doing)?;
    let mut named = Vec::new();
    for name in xattrs(dir).doing(doing)?.into_iter().filter(|name| !name.starts_with(OVERLAY)) {
        let value = xattr(dir, &name).doing(doing)?;
        named.push((name, value));
    }
    let attributes = Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        xattrs: named.iter().map(|(name, value)| (name.as_slice(), value.as_slice())).collect(),
    };
    record.put(&Record::Dir { path, attributes: Some(attributes), opaque: false })
}

fn xattr(from: &OwnedFd, name: &[u8]) -> rustix::io::Result<Vec<u8>> {
    let mut value = vec![0u8; 64 << 10];
    let length = rustix::fs::fgetxattr(from, name, value.as_mut_slice())?;
    value.truncate(length);
    Ok(value)
}

/// Opens a directory, never through a link.
fn open(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Returns whether a directory has the attributes of an undescribed one: 0755, owned by root, time 0.
fn is_plain(dir: &OwnedFd) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(dir)?;
    Ok(stat.st_mode & 0o7777 == 0o755
        && (stat.st_uid, stat.st_gid) == (0, 0)
        && stat.st_mtime == 0
        && xattrs(dir)?.iter().all(|name| name.starts_with(OVERLAY)))
}

fn is_marked_opaque(dir: &OwnedFd) -> rustix::io::Result<bool> {
    let mut value = [0u8; 1];
    match rustix::fs::fgetxattr(dir, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn xattrs(dir: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut list = vec![0u8; 64 << 10];
    match rustix::fs::flistxattr(dir, list.as_mut_slice()) {
        Ok(length) => {
            let names = list[..length].split(|b| *b == 0).filter(|name| !name.is_empty());
            Ok(names.map(<[u8]>::to_vec).collect())
        }
        Err(Errno::OPNOTSUPP) => Ok(Vec::new()),
        Err(errno) => Err(errno),
    }
}

fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> rustix::io::Result<()> {
    let stat: Stat = rustix::fs::fstat(from)?;
    debug_assert!(FileType::from_raw_mode(stat.st_mode).is_dir());
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for name in xattrs(from)?.iter().filter(|name| !name.starts_with(OVERLAY)) {
        rustix::fs::fsetxattr(to, name.as_slice(), &xattr(from, name)?, XattrFlags::empty())?;
    }
    let time = Timespec { tv_sec: stat.st_mtime as _, tv_nsec: stat.st_mtime_nsec as _ };
    rustix::fs::futimens(to, &Timestamps { last_access: time, last_modification: time })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn dir(path: &Path, mode: u32) {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        let fd = open(CWD, path.as_os_str()).unwrap();
        let time = Timespec { tv_sec: if mode == 0o755 { 0 } else { 77 }, tv_nsec: 0 };
        rustix::fs::futimens(&fd, &Timestamps { last_access: time, last_modification: time }).unwrap();
    }

    #[test]
    fn an_undescribed_directory_gets_the_attributes_of_the_layers_below() {
        let all = tempfile::tempdir().unwrap();
        let at = |path: &str| all.path().join(path);
        dir(&at("low/tmp/sub"), 0o700);
        dir(&at("low/tmp"), 0o1777);
        dir(&at("low/opaque/x"), 0o711);
        dir(&at("low/link"), 0o711);
        dir(&at("middle/opaque"), 0o700);
        let opaque = open(CWD, at("middle/opaque").as_os_str()).unwrap();
        rustix::fs::fsetxattr(&opaque, OPAQUE, b"y", XattrFlags::empty()).unwrap();
        symlink("/etc", at("middle/link")).unwrap();
        for path in ["tmp/sub", "tmp", "opaque/x", "opaque", "link", "own"] {
            dir(&at("top").join(path), if path == "own" { 0o750 } else { 0o755 });
        }
        for path in ["opaque", "tmp"] {
            dir(&at("top").join(path), 0o755);
        }
        let top = open(CWD, at("top").as_os_str()).unwrap();
        fs::write(at("files.idx"), "").unwrap();
        inherit(top.as_fd(), &[at("middle"), at("low")], &at("files.idx")).unwrap();
        let mode = |path: &str| at("top").join(path).metadata().unwrap().mode() & 0o7777;
        assert_eq!((mode("tmp"), mode("tmp/sub")), (0o1777, 0o700));
        assert_eq!(at("top/tmp").metadata().unwrap().mtime(), 77);
        assert_eq!((mode("opaque"), mode("opaque/x")), (0o700, 0o755), "hidden by an opaque directory");
        assert_eq!((mode("link"), mode("own")), (0o755, 0o750));
    }

    #[test]
    fn what_a_layer_lacks_or_hides_in_one_directory_says_nothing_about_the_next() {
        let all = tempfile::tempdir().unwrap();
        let at = |path: &str| all.path().join(path);
        for path in ["low/a/b/c", "low/a/z", "low/m", "middle/a/z", "low/hidden/x/y"] {
            dir(&at(path), 0o700);
        }
        dir(&at("middle/hidden"), 0o711);
        fs::write(at("middle/hidden/x"), "").unwrap();
        let paths = ["a/b/c", "a/b", "a/y/z", "a/z", "hidden/x/y", "hidden/x", "hidden/z", "m"];
        for path in paths {
            dir(&at("top").join(path), 0o755);
        }
        for path in ["a/y", "a", "hidden"] {
            dir(&at("top").join(path), 0o755);
        }
        let top = open(CWD, at("top").as_os_str()).unwrap();
        fs::write(at("files.idx"), "").unwrap();
        inherit(top.as_fd(), &[at("middle"), at("low")], &at("files.idx")).unwrap();
        let is_plain = |path: &str| at("top").join(path).metadata().unwrap().mtime() == 0;
        assert_eq!(paths.map(is_plain), [false, false, true, false, true, true, true, false]);
    }

    /// A walk from the root to each directory takes minutes for these.
    #[test]
    fn the_time_for_a_directory_does_not_grow_with_its_depth() {
        let all = tempfile::tempdir().unwrap();
        let path = ["d"; 1800].join("/");
        for layer in ["low", "top"] {
            let deep = all.path().join(layer).join(&path);
            dir(&deep, 0o755);
            for number in 0..2000 {
                fs::create_dir(deep.join(number.to_string())).unwrap();
            }
        }
        let top = open(CWD, all.path().join("top").as_os_str()).unwrap();
        let index = all.path().join("files.idx");
        fs::write(&index, "").unwrap();
        let begin = std::time::Instant::now();
        inherit(top.as_fd(), &[all.path().join("low")], &index).unwrap();
        assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
    }
}
