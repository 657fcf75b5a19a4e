//! `tmpcopyup`: copies the content of the mount point into the new filesystem.
//!
//! Directories are walked by descriptor, with a buffer on the stack for each level; no paths are built from names.

use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RawDir, Stat, chmodat, chownat, fchmod, fchown, mkdirat, openat,
    readlinkat_raw, sendfile, statat, symlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::Outcome;
use crate::launch::wire::Op;

/// The greatest depth of a tree: each level takes stack.
const DEEPEST: u32 = 64;
/// Bytes that one sendfile(2) may copy.
const CHUNK: usize = 1 << 20;

/// Copies the content of the directory `from` into the directory `to`.
pub(super) fn copy_tree(from: &OwnedFd, to: &OwnedFd) -> Outcome {
    let open = |fd: &OwnedFd| openat(fd, c".", OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let copy = || {
        let from = open(from)?;
        let to = open(to)?;
        copy_directory(from.as_fd(), to.as_fd(), 0)
    };
    copy().map_err(|errno| (Op::CopyUp, errno))
}

fn copy_directory(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> Result<(), Errno> {
    if depth > DEEPEST {
        return Err(Errno::NAMETOOLONG);
    }
    let mut buffer = [MaybeUninit::uninit(); 2048];
    let mut entries = RawDir::new(from, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            copy_entry(from, to, name, depth)?;
        }
    }
    Ok(())
}

fn copy_entry(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, depth: u32) -> Result<(), Errno> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let read = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            let source = openat(from, name, read | OFlags::DIRECTORY, Mode::empty())?;
            let target =
                openat(to, name, OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            copy_directory(source.as_fd(), target.as_fd(), depth + 1)?;
            give_fd(target.as_fd(), &stat)
        }
        FileType::RegularFile => {
            let source = openat(from, name, read, Mode::empty())?;
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            let target = openat(to, name, flags, Mode::from_raw_mode(0o600))?;
            while sendfile(&target, &source, None, CHUNK)? > 0 {}
            give_fd(target.as_fd(), &stat)
        }
        FileType::Symlink => {
            let mut text = [MaybeUninit::uninit(); 4096];
            let (path, _) = readlinkat_raw(from, name, &mut text)?;
            let mut ended = [0; 4097];
            ended[..path.len()].copy_from_slice(path);
            symlinkat(CStr::from_bytes_until_nul(&ended).map_err(|_| Errno::INVAL)?, to, name)?;
            chownat(
                to,
                name,
                Some(Uid::from_raw(stat.st_uid)),
                Some(Gid::from_raw(stat.st_gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
        }
        kind => {
            rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?;
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
            chmodat(to, name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())
        }
    }
}

/// The owner is set first, because chown(2) clears the set-user-ID bit.
fn give_fd(fd: BorrowedFd<'_>, stat: &Stat) -> Result<(), Errno> {
    fchown(fd, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(fd, Mode::from_raw_mode(stat.st_mode & 0o7777))
}
