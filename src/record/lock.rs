//! The lock of a container: one verb at a time.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, stat};
use rustix::io::Errno;

use super::Layout;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

/// The pauses between tries to take a lock that another verb holds.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);

/// The lock of a container, held by one verb. Released on drop, and by the kernel when the process dies.
#[derive(Debug)]
pub struct Lock {
    directory: OwnedFd,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Unlock explicitly: a container's process that waits for its start has a copy of the descriptor, so close(2)
        // would not unlock.
        let _ = flock(&self.directory, FlockOperation::Unlock);
    }
}

impl Lock {
    /// Takes the lock, waiting until no other verb holds it.
    ///
    /// # Errors
    /// `NotFound` when there is no such container, or it was deleted meanwhile.
    pub fn take(layout: &Layout) -> Result<Self> {
        Self::take_by(layout, &|directory| loop {
            match flock(directory, FlockOperation::LockExclusive) {
                Err(Errno::INTR) => {}
                other => return other.doing(|| format!("lock {}", layout.directory().display())),
            }
        })
    }

    /// As [`Lock::take`], but waits no longer than `limit`.
    ///
    /// # Errors
    /// As [`Lock::take`]; `Busy` when another verb still holds the lock after `limit`.
    pub fn take_within(layout: &Layout, limit: Duration) -> Result<Self> {
        let end = Instant::now() + limit;
        Self::take_by(layout, &|directory| {
            let mut pause = FIRST_PAUSE;
            loop {
                match flock(directory, FlockOperation::NonBlockingLockExclusive) {
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) if Instant::now() >= end => return Err(busy(layout)),
                    Err(Errno::AGAIN) => {
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(LONGEST_PAUSE);
                    }
                    other => return other.doing(|| format!("lock {}", layout.directory().display())),
                }
            }
        })
    }

    fn take_by(layout: &Layout, lock: &dyn Fn(&OwnedFd) -> Result<()>) -> Result<Self> {
        let path = layout.directory();
        loop {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = match rustix::fs::open(path, flags, Mode::empty()) {
                Err(Errno::NOENT) => return Err(absent(layout)),
                other => other.doing(|| format!("open {}", path.display()))?,
            };
            lock(&directory)?;
            // While this verb waited, the container may have been deleted, and another created with the same id.
            let (held, there) = (fstat(&directory), stat(path));
            match (held, there) {
                (Ok(held), Ok(there)) if held.st_ino == there.st_ino && held.st_dev == there.st_dev => {
                    // An earlier version made it so that others could enter.
                    private::tighten(&directory, &held).doing(|| format!("close {}", path.display()))?;
                    return Ok(Self { directory });
                }
                (_, Err(Errno::NOENT)) => return Err(absent(layout)),
                _ => {}
            }
        }
    }
}

fn busy(layout: &Layout) -> Error {
    let name = layout.directory().file_name().unwrap_or_default().to_string_lossy().into_owned();
    Error::new(Kind::Busy, format!("another command is working on container {name:?} and does not end"))
        .hint("see what it waits for: fuser -v on the container's state directory")
}

/// The error for a container that is not there.
pub(super) fn absent(layout: &Layout) -> Error {
    let name = layout.directory().file_name().unwrap_or_default().to_string_lossy().into_owned();
    Error::new(Kind::NotFound, format!("container {name:?} does not exist"))
        .command_hint("see the containers that exist: coracle list")
}
