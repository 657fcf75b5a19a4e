//! Whether the daemon runs, found out without connecting to its socket: where systemd holds the socket, a connection starts the
//! daemon.

use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Flock, FlockType, fcntl_getlk};

/// The file in the run directory that the daemon locks as long as it lives.
pub(crate) const LOCK: &str = "serve.lock";

/// The pid of the daemon that uses this run directory; `None` if none does. The daemon itself must not call it.
///
/// # Errors
/// `PermissionDenied` for other users.
pub(crate) fn pid(run: &Path) -> Result<Option<i32>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(run.join(LOCK), flags, Mode::empty()) {
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        other => other?,
    };
    let holder = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock))?;
    Ok(holder.and_then(|lock| lock.pid).map(|pid| pid.as_raw_nonzero().get()))
}

/// Whether the daemon of this run directory has its socket at `socket`.
///
/// # Errors
/// Those of [`pid`]; `ConnectionRefused` if no daemon runs, or it has another socket.
pub(crate) fn has_socket(run: &Path, socket: &Path) -> Result<()> {
    let is_socket = || socket.metadata().is_ok_and(|meta| meta.file_type().is_socket());
    match pid(run)?.is_some() && is_socket() {
        true => Ok(()),
        false => Err(ErrorKind::ConnectionRefused.into()),
    }
}
