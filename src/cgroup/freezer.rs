//! Stopping and resuming a whole cgroup.

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

/// A process in uninterruptible sleep cannot be frozen before it wakes; longer is not waited.
const FREEZE_TIME: Duration = Duration::from_secs(10);
/// How often a v1 freezer is asked. Below this runc's experience with forking containers lies.
const V1_TRIES: u32 = 1000;

impl Group {
    /// Stops every process in the group; returns once all stand still.
    ///
    /// # Errors
    /// `TimedOut` when a process cannot be stopped; the group is then thawed again. `Unsupported` without a freezer.
    pub fn freeze(&self) -> Result<()> {
        let dir = self.open("freezer")?;
        let result = match self.mode() {
            Mode::V1 => freeze_v1(&dir),
            Mode::V2 => freeze_v2(&dir),
        };
        result.map_err(|error| match self.thaw() {
            // Half frozen is worse than not at all.
            Ok(()) => error,
            Err(thaw) => error.hint(format!("it may be half frozen: {}", thaw.chain())),
        })
    }

    /// Lets the processes run again. A group inside a frozen one stays still until that one is thawed.
    ///
    /// # Errors
    /// Those of the write; that the group is gone is one, a missing freezer is one.
    pub fn thaw(&self) -> Result<()> {
        let dir = self.open("freezer")?;
        let (file, value) = match self.mode() {
            Mode::V1 => ("freezer.state", "THAWED"),
            Mode::V2 => ("cgroup.freeze", "0"),
        };
        dir.write(file, value).doing(|| format!("write {value} to {}", dir.path().join(file).display()))
    }

    /// Whether this group itself was frozen, not just one above it; `false` when the group or the freezer is gone.
    ///
    /// # Errors
    /// Those of reading.
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
    // Opened before the change, so that none is missed.
    let events = dir.file("cgroup.events", OFlags::RDONLY).doing(doing)?;
    dir.write("cgroup.freeze", "1").doing(doing)?;
    match wait_for(&events, "frozen 1", FREEZE_TIME).doing(doing)? {
        true => Ok(()),
        false => Err(too_slow(dir)),
    }
}

/// Waits until cgroup.events has `line`; `Ok(false)` when it took too long.
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

/// The pause between tries to remove a v2 cgroup: until its last process has left, or the pause of the try is over.
pub(crate) fn wait_unpopulated(path: &Path, tries: u32) {
    let time = Duration::from_millis(1 << tries.min(10));
    let events = Dir::open(path).and_then(|dir| dir.file("cgroup.events", OFlags::RDONLY));
    let empty = events.and_then(|events| wait_for(&events, "populated 0", time));
    if !matches!(empty, Ok(false)) {
        // Empty, and yet busy: the last references go away in a moment.
        dir::pause(tries.min(5));
    }
}

/// v1 reports FREEZING until all stand still, and loses against processes that fork meanwhile unless asked again;
/// thawing now and then lets such a group settle.
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
