//! A cgroup's directory, opened once; its files are opened relative to it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Doing, Error, Kind, Result};

/// How often removing a busy directory is retried. The pause starts at 1 ms and doubles: about a second in all.
const REMOVE_TRIES: u32 = 10;

/// An open cgroup directory.
#[derive(Debug)]
pub(crate) struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

impl Dir {
    /// Opens `path` with `O_PATH`: enough for openat(2), `CLONE_INTO_CGROUP` and attaching eBPF programs.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { fd, path: path.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a file of the cgroup; never creates one.
    pub(crate) fn file(&self, name: &str, flags: OFlags) -> io::Result<fs::File> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(&self.fd, name, flags, Mode::empty())?.into())
    }

    /// Writes `value` in one write(2), which cgroup files require.
    pub(crate) fn write(&self, name: &str, value: &str) -> io::Result<()> {
        let file = self.file(name, OFlags::WRONLY)?;
        loop {
            match rustix::io::write(&file, value.as_bytes()) {
                Ok(count) if count == value.len() => return Ok(()),
                Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    pub(crate) fn read(&self, name: &str) -> io::Result<String> {
        io::read_to_string(self.file(name, OFlags::RDONLY)?)
    }

    /// Returns whether the controller is enabled in this cgroup. On v1 the directory itself belongs to the controller.
    pub(crate) fn has_controller(&self, controller: &str) -> bool {
        match self.read("cgroup.controllers") {
            Ok(list) => list.split_ascii_whitespace().any(|name| name == controller),
            Err(_) => true,
        }
    }

    /// The number after `key` in a file of `key value` lines; `key` includes the trailing space.
    pub(crate) fn value_of(&self, name: &str, key: &str) -> io::Result<Option<u64>> {
        Ok(self.read(name)?.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok()))
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The cgroups directly below `path`.
pub(super) fn children(path: &Path) -> io::Result<Vec<PathBuf>> {
    // A cgroup directory has two links and one more for each child, so a leaf needs no listing of its many files.
    if fs::symlink_metadata(path)?.nlink() == 2 {
        return Ok(Vec::new());
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// The processes of the cgroup and of all below it. A cgroup that vanishes in between counts as empty; so does a
/// missing `path`.
pub(crate) fn pids_below(path: &Path) -> Result<Vec<i32>> {
    let mut pids = Vec::new();
    let mut todo = vec![path.to_owned()];
    while let Some(next) = todo.pop() {
        match pids_in(&next).and_then(|found| Ok((found, children(&next)?))) {
            Ok((found, below)) => {
                pids.extend(found);
                todo.extend(below);
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error).doing(|| format!("list the processes of {}", next.display())),
        }
    }
    Ok(pids)
}

fn pids_in(path: &Path) -> io::Result<Vec<i32>> {
    let text = match fs::read_to_string(path.join("cgroup.procs")) {
        // A threaded cgroup of v2 lists only threads.
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            fs::read_to_string(path.join("cgroup.threads"))?
        }
        other => other?,
    };
    // A process outside our PID namespace reads as 0, and kill(0) would signal our own process group.
    Ok(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect())
}

/// A file that was opened before its cgroup was removed returns `ENODEV`.
pub(crate) fn is_gone(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENODEV))
}

/// Removes the cgroup with all below it. `wait` is called with the number of the attempt between attempts while a
/// cgroup is busy, because a killed process needs a moment to leave.
///
/// # Errors
/// `Busy` when processes remain.
pub(crate) fn remove(path: &Path, wait: &dyn Fn(&Path, u32)) -> Result<()> {
    match rustix::fs::rmdir(path) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(_) => {}
    }
    // A read-only mount returns EROFS even for a missing directory, so check first that there is one.
    let below = match children(path) {
        Ok(below) => below,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error).doing(|| format!("list cgroup {}", path.display())),
    };
    below.iter().try_for_each(|child| remove(child, wait))?;
    let mut tries = 0;
    loop {
        match rustix::fs::rmdir(path) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(Errno::BUSY) if tries < REMOVE_TRIES => {
                wait(path, tries);
                tries += 1;
            }
            Err(Errno::BUSY) => {
                let count = pids_below(path).map_or(0, |pids| pids.len());
                let doing = format!("remove cgroup {}: {count} processes are still in it", path.display());
                return Err(Error::new(Kind::Busy, doing).because(Errno::BUSY));
            }
            Err(errno) => return Err(errno).doing(|| format!("remove cgroup {}", path.display())),
        }
    }
}

/// The growing pause of [`remove`]: 1, 2, 4 ... milliseconds.
pub(crate) fn pause(tries: u32) {
    thread::sleep(Duration::from_millis(1 << tries.min(REMOVE_TRIES)));
}
