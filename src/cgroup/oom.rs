//! OOM kills: how many there were, and a descriptor that reports the next one.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::OFlags;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::Mode;
use super::dir::Dir;
use super::group::Group;
use crate::error::{Doing, Result};

impl Group {
    /// The path of the file with the line `oom_kill n`, for readers that do not have this group.
    pub fn oom_file(&self) -> Option<PathBuf> {
        let key = if self.mode() == Mode::V1 { "memory" } else { "" };
        self.paths().get(key).map(|path| path.join(self.oom_file_name()))
    }

    /// How many processes of the group the OOM killer has killed so far; 0 without the memory controller.
    ///
    /// # Errors
    /// Those of the read, `NotFound` when the group is gone.
    pub fn oom_kills(&self) -> Result<u64> {
        let Some(dir) = self.memory()? else { return Ok(0) };
        let file = self.oom_file_name();
        match dir.value_of(file, "oom_kill ") {
            Ok(count) => Ok(count.unwrap_or(0)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error).doing(|| format!("read {}", dir.path().join(file).display())),
        }
    }

    /// A descriptor that becomes readable when memory ran out or a limit was hit; the data read from it has no meaning.
    /// `None` without the memory controller. SPEC(cgroup-v2.rst, memory.events: a change is a modification of the file)
    ///
    /// # Errors
    /// Those of the calls, `NotFound` when the group is gone.
    pub fn watch_memory(&self) -> Result<Option<OwnedFd>> {
        let Some(dir) = self.memory()? else { return Ok(None) };
        let file = self.oom_file_name();
        if !dir.path().join(file).exists() {
            return Ok(None);
        }
        let watch = match self.mode() {
            Mode::V1 => watch_v1(&dir, file),
            Mode::V2 => watch_v2(&dir, file),
        };
        watch.map(Some).doing(|| format!("watch {}", dir.path().join(file).display()))
    }

    fn oom_file_name(&self) -> &'static str {
        match self.mode() {
            Mode::V1 => "memory.oom_control",
            Mode::V2 => "memory.events",
        }
    }

    fn memory(&self) -> Result<Option<Dir>> {
        if self.mode() == Mode::V1 && !self.paths().contains_key("memory") {
            return Ok(None);
        }
        self.open("memory").map(Some)
    }
}

/// SPEC(cgroup-v1/memory.rst 9): an eventfd, and a line that ties it to the file.
fn watch_v1(dir: &Dir, file: &str) -> io::Result<OwnedFd> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let control = dir.file(file, OFlags::RDONLY)?;
    dir.write("cgroup.event_control", &format!("{} {}", event.as_raw_fd(), control.as_raw_fd()))?;
    Ok(event)
}

fn watch_v2(dir: &Dir, file: &str) -> io::Result<OwnedFd> {
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    inotify::add_watch(&watch, dir.path().join(file), WatchFlags::MODIFY)?;
    Ok(watch)
}
