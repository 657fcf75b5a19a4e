//! Deletes whole trees: one rename moves a tree to the trash, then its entries are deleted one by one.
//!
//! There is no recursion: a directory that is not empty is moved up into the trash and deleted later, so neither depth
//! nor a crash in the middle matters, and no name is ever followed out of the trash.

use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Doing, Error, Kind, Result};

/// IOPRIO_CLASS_IDLE, of ioprio_set(2).
const IDLE: i32 = 3 << 13;

static NEXT: AtomicU64 = AtomicU64::new(0);

/// The store's `trash/`.
#[derive(Debug, Clone)]
pub(crate) struct Trash {
    path: PathBuf,
}

impl Trash {
    /// The trash directory at `path`.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Moves `path` to the trash; a missing one is no error. [`Trash::empty`] frees the space.
    pub(crate) fn take(&self, path: &Path) -> Result<()> {
        match take(CWD, path.as_os_str(), &self.open()?) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno).doing(|| format!("move {} to the trash", path.display())),
        }
    }

    /// Deletes everything in the trash and returns the number of its entries; several processes may do this at once.
    ///
    /// The work has idle I/O priority, so that other programs of the machine come first.
    pub(crate) fn empty(&self) -> Result<u64> {
        let trash = self.open()?;
        let first = names(trash.as_fd()).doing(|| format!("list {}", self.path.display()))?;
        if first.is_empty() {
            return Ok(0);
        }
        let count = first.len() as u64;
        // The priority belongs to the thread, so it ends with it.
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("trash".to_owned());
            let thread = thread.spawn_scoped(scope, || {
                // Where the priority cannot be set, the trash is emptied at the normal one.
                let _ = crate::sys::process::set_io_priority(IDLE);
                self.empty_from(&trash, &first)
            });
            // The space may be needed right now: without a thread it is freed at the caller's priority.
            let Ok(work) = thread else { return self.empty_from(&trash, &first) };
            work.join().unwrap_or_else(|_| Err(Error::new(Kind::Bug, "emptying the trash panicked")))
        })?;
        Ok(count)
    }

    fn empty_from(&self, trash: &OwnedFd, first: &[OsString]) -> Result<()> {
        let mut found = first.to_owned();
        while !found.is_empty() {
            for name in found {
                delete(trash.as_fd(), &name, trash).doing(|| format!("empty {}", self.path.display()))?;
            }
            found = names(trash.as_fd()).doing(|| format!("list {}", self.path.display()))?;
        }
        Ok(())
    }

    fn open(&self) -> Result<OwnedFd> {
        open_dir(CWD, self.path.as_os_str()).doing(|| format!("open {}", self.path.display()))
    }
}

fn open_dir(parent: BorrowedFd<'_>, name: &OsStr) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(parent, name, flags, Mode::empty())
}

/// Moves `name` of `parent` into the trash under an unused name.
fn take(parent: BorrowedFd<'_>, name: &OsStr, trash: &OwnedFd) -> rustix::io::Result<()> {
    loop {
        let unique = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        match rustix::fs::renameat(parent, name, trash, unique) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR | Errno::ISDIR) => {}
            other => return other,
        }
    }
}

/// Deletes one entry of `parent`; for a directory with entries, deletes or moves these first.
fn delete(parent: BorrowedFd<'_>, name: &OsStr, trash: &OwnedFd) -> rustix::io::Result<()> {
    if gone(rustix::fs::unlinkat(parent, name, AtFlags::empty()))? {
        return Ok(());
    }
    if gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR))? {
        return Ok(());
    }
    let dir = match open_dir(parent, name) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    for child in names(dir.as_fd())? {
        let is_gone = gone(rustix::fs::unlinkat(&dir, &*child, AtFlags::empty()))?
            || gone(rustix::fs::unlinkat(&dir, &*child, AtFlags::REMOVEDIR))?;
        if !is_gone {
            match take(dir.as_fd(), &child, trash) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
    gone(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)).map(drop)
}

/// Returns whether the entry is deleted; `false` when it is a directory, or one with entries.
fn gone(answer: rustix::io::Result<()>) -> rustix::io::Result<bool> {
    match answer {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        // unlink(2) of a directory: EISDIR on Linux, EPERM by POSIX.
        Err(Errno::ISDIR | Errno::PERM | Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The names in a directory, without `.` and `..`.
pub(crate) fn names(dir: BorrowedFd<'_>) -> rustix::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(OsStr::from_bytes(name).to_owned());
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_deeper_than_the_open_file_limit_goes_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "x").unwrap();
        let trash = Trash::new(dir.path().join("trash"));
        std::fs::create_dir(&trash.path).unwrap();
        let top = dir.path().join("tree");
        std::fs::create_dir(&top).unwrap();
        let mut at = open_dir(CWD, top.as_os_str()).unwrap();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "d", Mode::from_raw_mode(0o000)).unwrap();
            rustix::fs::symlinkat(&outside, &at, "link").unwrap();
            at = open_dir(at.as_fd(), OsStr::new("d")).unwrap();
        }
        trash.take(&top).unwrap();
        assert!(!top.exists());
        trash.empty().unwrap();
        assert_eq!(std::fs::read_dir(&trash.path).unwrap().count(), 0);
        assert!(outside.join("kept").exists());
        trash.take(&top).unwrap();
    }
}
