//! Opens paths below the container's root with openat2(2). The kernel resolves them with the root as `/`, so no link
//! leads out of it, and the result is held as a descriptor, so nothing can be swapped afterwards.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

use super::{At, Init, Outcome, links};
use crate::launch::steps::Below;
use crate::launch::wire::Op;

/// How often a lookup that raced with a rename is retried; openat2(2), EAGAIN.
const TRIES: u32 = 32;

impl Init<'_> {
    /// The descriptor of the container's root.
    pub(super) fn root(&self) -> Outcome<BorrowedFd<'_>> {
        self.root.as_ref().map(AsFd::as_fd).ok_or((Op::Open, Errno::BADF))
    }

    /// Creates a directory with its parents.
    pub(super) fn directory(&self, path: &Below) -> Outcome {
        open_directory(self.root()?, path, ResolveFlags::empty()).map(drop)
    }

    /// Creates a symbolic link unless a file of that name exists.
    pub(super) fn symlink(&self, target: &std::ffi::CStr, link: &Below) -> Outcome {
        let (parent, name) = open_parent(self.root()?, link)?;
        match rustix::fs::symlinkat(target, &parent, name) {
            Err(Errno::EXIST) => Ok(()),
            other => other.at(Op::Link),
        }
    }
}

/// Opens an existing file of any kind with `O_PATH`.
pub(super) fn open(
    root: BorrowedFd<'_>,
    path: &std::ffi::CStr,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let resolve = resolve | ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut opened = Err(Errno::AGAIN);
    for _ in 0..TRIES {
        opened = openat2(root, path, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty(), resolve);
        if !matches!(opened, Err(Errno::AGAIN)) {
            break;
        }
    }
    opened
}

/// Opens a directory, creating it and its parents if missing.
pub(super) fn open_directory(root: BorrowedFd<'_>, path: &Below, resolve: ResolveFlags) -> Outcome<OwnedFd> {
    match open(root, &path.path, OFlags::DIRECTORY, resolve) {
        Err(Errno::NOENT) => {}
        other => return other.at(Op::Open),
    }
    match make_directories(root, &path.makers, resolve) {
        // A link on the way leads to what is missing.
        Err((_, Errno::NOENT)) if resolve.is_empty() => {}
        other => other?,
    }
    match open(root, &path.path, OFlags::DIRECTORY, resolve) {
        Err(Errno::NOENT) if resolve.is_empty() => links::make(root, &path.path, FileType::Directory)?,
        other => return other.at(Op::Open),
    }
    open(root, &path.path, OFlags::DIRECTORY, resolve).at(Op::Open)
}

/// Opens the parent directory of a path, creating it if missing; also returns the last component.
pub(super) fn open_parent<'p>(
    root: BorrowedFd<'_>,
    path: &'p Below,
) -> Outcome<(OwnedFd, &'p std::ffi::CStr)> {
    let Some(((parent, name), before)) = path.makers.split_last() else {
        return Err((Op::Open, Errno::INVAL));
    };
    let directory = match open(root, parent, OFlags::DIRECTORY, ResolveFlags::empty()) {
        Err(Errno::NOENT) => {
            make_directories(root, before, ResolveFlags::empty())?;
            open(root, parent, OFlags::DIRECTORY, ResolveFlags::empty())
        }
        other => other,
    };
    Ok((directory.at(Op::Open)?, name))
}

/// Opens a file, creating it empty and its parents if missing.
pub(super) fn open_file(root: BorrowedFd<'_>, path: &Below) -> Outcome<OwnedFd> {
    match open(root, &path.path, OFlags::empty(), ResolveFlags::empty()) {
        Err(Errno::NOENT) => {}
        other => return other.at(Op::Open),
    }
    match open_parent(root, path) {
        Ok((parent, name)) => make_file(&parent, name)?,
        // A link on the way leads to what is missing.
        Err((_, Errno::NOENT)) => {}
        Err(error) => return Err(error),
    }
    match open(root, &path.path, OFlags::empty(), ResolveFlags::empty()) {
        Err(Errno::NOENT) => links::make(root, &path.path, FileType::RegularFile)?,
        other => return other.at(Op::Open),
    }
    open(root, &path.path, OFlags::empty(), ResolveFlags::empty()).at(Op::Open)
}

/// Creates an empty file; an existing one is no error.
pub(super) fn make_file(parent: &OwnedFd, name: &std::ffi::CStr) -> Outcome {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    match openat(parent, name, flags, Mode::from_raw_mode(0o644)) {
        Ok(_) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err((Op::Open, errno)),
    }
}

/// Creates the missing directories of a path, starting below the deepest one that exists.
fn make_directories(
    root: BorrowedFd<'_>,
    makers: &[(std::ffi::CString, std::ffi::CString)],
    resolve: ResolveFlags,
) -> Outcome {
    for start in (0..makers.len()).rev() {
        match open(root, &makers[start].0, OFlags::DIRECTORY, resolve) {
            Err(Errno::NOENT) => {}
            Err(errno) => return Err((Op::Open, errno)),
            Ok(parent) => {
                make_one(&parent, &makers[start].1)?;
                for (parent, name) in &makers[start + 1..] {
                    make_one(&open(root, parent, OFlags::DIRECTORY, resolve).at(Op::Open)?, name)?;
                }
                return Ok(());
            }
        }
    }
    Err((Op::Open, Errno::NOENT))
}

pub(super) fn make_one(parent: &OwnedFd, name: &std::ffi::CStr) -> Outcome {
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Err(Errno::EXIST) => Ok(()),
        other => other.at(Op::Mkdir),
    }
}
