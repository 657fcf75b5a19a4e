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
    let lowers =
        lowers.iter().map(|path| open(CWD, path.as_os_str())).collect::<Result<Vec<_>, _>>().doing(doing)?;
    let file = OpenOptions::new().append(true).open(index).doing(doing)?;
    let mut record = Writer::new(file)?;
    let mut todo: Vec<Vec<OsString>> = vec![Vec::new()];
    while let Some(path) = todo.pop() {
        let dir = walk(root, &path).doing(doing)?;
        for name in names_of_directories(&dir).doing(doing)? {
            let child = match open(dir.as_fd(), &name) {
                Err(Errno::NOTDIR | Errno::LOOP) => continue,
                other => other.doing(doing)?,
            };
            let child_path = [path.as_slice(), &[name]].concat();
            if is_plain(&child).doing(doing)?
                && let Some(real) = find(&lowers, &child_path).doing(doing)?
            {
                copy_attributes(&real, &child).doing(doing)?;
                note(&mut record, &child, &child_path)?;
            }
            todo.push(child_path);
        }
    }
    record.close()
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
fn note(record: &mut Writer, dir: &OwnedFd, path: &[OsString]) -> Result<()> {
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
    let path = path.iter().map(|part| part.as_bytes()).collect::<Vec<_>>().join(&b'/');
    record.put(&Record::Dir { path: &path, attributes: Some(attributes), opaque: false })
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

fn walk(root: BorrowedFd<'_>, path: &[OsString]) -> rustix::io::Result<OwnedFd> {
    let mut dir = open(root, OsStr::new("."))?;
    for name in path {
        dir = open(dir.as_fd(), name)?;
    }
    Ok(dir)
}

/// Returns whether a directory has the attributes of an undescribed one: 0755, owned by root, time 0.
fn is_plain(dir: &OwnedFd) -> rustix::io::Result<bool> {
    let stat = rustix::fs::fstat(dir)?;
    Ok(stat.st_mode & 0o7777 == 0o755
        && (stat.st_uid, stat.st_gid) == (0, 0)
        && stat.st_mtime == 0
        && xattrs(dir)?.iter().all(|name| name.starts_with(OVERLAY)))
}

/// The directory at `path` as a mount of `lowers` shows it.
fn find(lowers: &[OwnedFd], path: &[OsString]) -> rustix::io::Result<Option<OwnedFd>> {
    for lower in lowers {
        match find_in(lower, path)? {
            Found::Dir(dir) => return Ok(Some(dir)),
            Found::Hidden => return Ok(None),
            Found::Below => {}
        }
    }
    Ok(None)
}

enum Found {
    Dir(OwnedFd),
    /// This layer hides the path.
    Hidden,
    /// This layer does not have the path.
    Below,
}

fn find_in(lower: &OwnedFd, path: &[OsString]) -> rustix::io::Result<Found> {
    let mut dir = open(lower.as_fd(), OsStr::new("."))?;
    let mut is_opaque = false;
    for name in path {
        dir = match open(dir.as_fd(), name) {
            Ok(dir) => dir,
            Err(Errno::NOENT) if !is_opaque => return Ok(Found::Below),
            // A whiteout, a file or a link in its place hides the layers below like an opaque directory.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(Found::Hidden),
            Err(errno) => return Err(errno),
        };
        is_opaque |= is_marked_opaque(&dir)?;
    }
    Ok(Found::Dir(dir))
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
}
