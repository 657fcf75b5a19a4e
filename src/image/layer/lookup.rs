//! One name in one open directory, and what stands there.

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

/// What stands at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Was {
    Nothing,
    Dir,
    Link,
    Whiteout,
    Other,
}

/// Looks without following.
///
/// # Errors
/// What statx(2) answers but for "not there".
pub(super) fn look(at: At<'_>) -> Result<Was> {
    let stat = match rustix::fs::statat(at.dir, at.name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Was::Nothing),
        result => system("look at what is there", result)?,
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Was::Dir,
        FileType::Symlink => Was::Link,
        _ if is_whiteout(&stat) => Was::Whiteout,
        _ => Was::Other,
    })
}

/// Says what a system call was for, and names the two failures a user meets: a full disk and unmapped ids.
pub(super) fn system<T>(doing: &'static str, result: rustix::io::Result<T>) -> Result<T> {
    match result {
        Err(full @ (Errno::NOSPC | Errno::DQUOT)) => {
            let error = Error::new(Kind::System, format!("{doing}: no space left")).because(full);
            Err(error.hint("free some space on the file system of the image store, then try again"))
        }
        other => other.doing(|| doing),
    }
}
