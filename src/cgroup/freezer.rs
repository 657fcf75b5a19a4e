//! Freezing and thawing a whole cgroup.

use std::os::fd::AsFd;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;

use super::Mode;
use super::dir::{self, Dir, is_gone};
use super::group::Group;
use crate::error::{Doing, Error, Kind, Result};

/// How long freezing may take: a process in uninterruptible sleep cannot be frozen before it wakes.
const FREEZE_TIME: Duration = Duration::from_secs(10);
/// How often a v1 freezer is polled and, now and then, thawed and frozen again: the number that runc found necessary
/// for containers that keep forking.
const V1_TRIES: u32 = 1000;

impl Group {
    /// Freezes every process in the group; returns once all are frozen.
    ///
    /// # Errors
    /// `TimedOut` when a process cannot be frozen; the group is then thawed again. `Unsupported` without a freezer.
    pub fn freeze(&self) -> Result<()> {
        let dir = self.open("freezer")?;
        let result = match self.mode() {
            Mode::V1 => freeze_v1(&dir),
            Mode::V2 => freeze_v2(&dir),
        };
        result.map_err(|error| match self.thaw() {
            // Half frozen is worse than not frozen.
            Ok(()) => error,
            Err(thaw) => error.hint(format!("it may be half frozen: {}", thaw.chain())),
        })
    }

    /// Thaws the group. A group inside a frozen one stays frozen until the outer one is thawed.
    ///
    /// # Errors
    /// Those of the write; also when the group or the freezer is missing.
    pub fn thaw(&self) -> Result<()> {
        let dir = self.open("freezer")?;
        let (file, value) = match self.mode() {
            Mode::V1 => ("freezer.state", "THAWED"),
            Mode::V2 => ("cgroup.freeze", "0"),
        };
        dir.write(file, value).doing(|| format!("write {value} to {}", dir.path().join(file).display()))
    }

    /// As [`Group::thaw`]; a group that another verb has removed meanwhile is no error.
    ///
    /// # Errors
    /// Those of the write.
    pub fn thaw_if_exists(&self) -> Result<()> {
        match self.thaw() {
            // ENODEV and ENOENT.
            Err(_) if self.open("freezer").is_err_and(|error| error.kind() == Kind::NotFound) => Ok(()),
            other => other,
        }
    }

    /// Returns whether this group itself is frozen, not only one above it; `false` when the group or the freezer is
    /// missing.
    ///
    /// # Errors
    /// Those of the read.
    pub fn is_frozen(&self) -> Result<bool> {
        let (file, value) = match self.mode() {
            Mode::V1 => ("freezer.self_freezing", "1"),
            Mode::V2 => ("cgroup.freeze", "1"),
        };
        if self.mode() == Mode::V1 && !self.paths().contains_key("freezer") {
            return Ok(false);
        }
        let dir = match self.open("freezer") {
            Err(error) if error.kind() == Kind::NotFound => return Ok(false),
            other => other?,
        };
        match dir.read(file) {
            Ok(text) => Ok(text.trim() == value),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error).doing(|| format!("read {}", dir.path().join(file).display())),
        }
    }
}

fn too_slow(dir: &Dir) -> Error {
    let error = Error::new(Kind::TimedOut, format!("freeze cgroup {}", dir.path().display()));
    error.hint("a process in it waits for a device or a network file system")
}

/// The kernel wakes pollers of cgroup.events when `frozen` changes there.
fn freeze_v2(dir: &Dir) -> Result<()> {
    let doing = || format!("freeze cgroup {}", dir.path().display());
    // Opened before the change, so that no event is missed.
    let events = dir.file("cgroup.events", OFlags::RDONLY).doing(doing)?;
    dir.write("cgroup.freeze", "1").doing(doing)?;
    match wait_for(&events, "frozen 1", FREEZE_TIME).doing(doing)? {
        true => Ok(()),
        false => Err(too_slow(dir)),
    }
}

/// Waits until cgroup.events has `line`; `Ok(false)` on timeout.
fn wait_for(events: &std::fs::File, line: &str, time: Duration) -> std::io::Result<bool> {
    let deadline = Instant::now() + time;
    let mut text = [0_u8; 256];
    loop {
        let count = rustix::io::pread(events, &mut text, 0)?;
        if text[..count].split(|byte| *byte == b'\n').any(|own| own == line.as_bytes()) {
            return Ok(true);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos() as _ };
        let mut fds = [PollFd::from_borrowed_fd(events.as_fd(), PollFlags::PRI)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// The pause between attempts to remove a v2 cgroup: it ends when the last process has left, or after the time of the
/// attempt.
pub(crate) fn wait_unpopulated(path: &Path, tries: u32) {
    let time = Duration::from_millis(1 << tries.min(10));
    let events = Dir::open(path).and_then(|dir| dir.file("cgroup.events", OFlags::RDONLY));
    let empty = events.and_then(|events| wait_for(&events, "populated 0", time));
    if !matches!(empty, Ok(false)) {
        // Unpopulated but still busy: the kernel drops the last references in a moment.
        dir::pause(tries.min(5));
    }
}

/// v1 reports FREEZING until all processes are frozen, and misses processes that are forked meanwhile unless it is
/// asked again; thawing now and then lets such a group make progress.
fn freeze_v1(dir: &Dir) -> Result<()> {
    let doing = || format!("freeze cgroup {}", dir.path().display());
    for attempt in 0..V1_TRIES {
        if attempt % 50 == 49 {
            dir.write("freezer.state", "THAWED").doing(doing)?;
            thread::sleep(Duration::from_millis(10));
        }
        dir.write("freezer.state", "FROZEN").doing(doing)?;
        if attempt % 25 == 24 {
            thread::sleep(Duration::from_micros(10));
        }
        if dir.read("freezer.state").doing(doing)?.trim() == "FROZEN" {
            return Ok(());
        }
    }
    Err(too_slow(dir))
}
