//! Looks up a name in an open directory.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use super::tree::is_whiteout;
use crate::error::{Doing, Error, Kind, Result};

/// A name in an open directory; the name is one part, never a path.
#[derive(Debug, Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) dir: BorrowedFd<'a>,
    pub(super) name: &'a [u8],
}

/// The type of the file at a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Existing {
    Nothing,
    Dir,
    Link,
    Whiteout,
    Other,
}

/// Looks up the type, without following a symlink.
///
/// # Errors
/// The errno of statx(2), except when the name does not exist.
pub(super) fn lookup(at: At<'_>) -> Result<Existing> {
    let stat = match rustix::fs::statat(at.dir, at.name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Existing::Nothing),
        result => system("stat an existing file", result)?,
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Existing::Dir,
        FileType::Symlink => Existing::Link,
        _ if is_whiteout(&stat) => Existing::Whiteout,
        _ => Existing::Other,
    })
}

/// Adds the purpose of a system call, and explains the two failures that users meet: a full disk and unmapped ids.
pub(super) fn system<T>(doing: &'static str, result: rustix::io::Result<T>) -> Result<T> {
    match result {
        Err(full @ (Errno::NOSPC | Errno::DQUOT)) => {
            let error = Error::new(Kind::System, format!("{doing}: no space left")).because(full);
            Err(error.hint("free some space on the file system of the image store, then try again"))
        }
        other => other.doing(|| doing),
    }
}
