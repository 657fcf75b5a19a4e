//! One verb at a time on one container.

use std::os::fd::OwnedFd;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, fstat, stat};
use rustix::io::Errno;

use super::Layout;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

/// Holds a container for one verb; let go when dropped, and by the kernel when the process dies.
#[derive(Debug)]
pub struct Lock {
    directory: OwnedFd,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not left to close(2): a container's process that waits for its start has a copy of the descriptor.
        let _ = flock(&self.directory, FlockOperation::Unlock);
    }
}

impl Lock {
    /// Waits until no other verb works on the container.
    ///
    /// # Errors
    /// `NotFound` when there is no such container, or it was deleted meanwhile.
    pub fn take(layout: &Layout) -> Result<Self> {
        let path = layout.directory();
        loop {
            let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let directory = match rustix::fs::open(path, flags, Mode::empty()) {
                Err(Errno::NOENT) => return Err(absent(layout)),
                other => other.doing(|| format!("open {}", path.display()))?,
            };
            loop {
                match flock(&directory, FlockOperation::LockExclusive) {
                    Err(Errno::INTR) => {}
                    other => break other.doing(|| format!("lock {}", path.display()))?,
                }
            }
            // While we waited, the container may have been deleted, and another made under its name.
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

/// The error for a container that is not there.
pub(super) fn absent(layout: &Layout) -> Error {
    let name = layout.directory().file_name().unwrap_or_default().to_string_lossy().into_owned();
    Error::new(Kind::NotFound, format!("container {name:?} does not exist"))
        .hint("see the containers that exist: coracle list")
}
