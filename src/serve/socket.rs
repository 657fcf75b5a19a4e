//! Unix sockets that the daemon listens on.

use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::process::umask;

use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

/// Listens on `path`, where a dead process may have left a socket. Only root and members of its group can connect.
pub(super) fn listen(path: &Path) -> Result<UnixListener> {
    let doing = || format!("listen on {}", path.display());
    // The directory holds only the socket, unless it is the run directory, which exists already.
    if let Some(directory) = path.parent() {
        private::make_dirs(directory, 0o711).doing(|| format!("make {}", directory.display()))?;
    }
    match path.symlink_metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Ok(meta) if meta.file_type().is_socket() => match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).doing(doing)?;
            }
            _ => return Err(Error::new(Kind::Busy, doing()).because("another process is listening there")),
        },
        Ok(_) => return Err(Error::new(Kind::Exists, doing()).because("the path exists and is not a socket")),
        Err(error) => return Err(error).doing(doing),
    }
    // The umask sets the mode atomically with bind(2). It is process-wide, but there is only one thread yet.
    let before = umask(Mode::from_raw_mode(0o117));
    let bound = UnixListener::bind(path);
    umask(before);
    bound.doing(doing)
}

/// The path of our socket; removed on drop.
#[derive(Debug)]
pub(super) struct Bound(pub(super) PathBuf);

impl Drop for Bound {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The same socket for the event loop.
pub(super) fn asynchronous(listener: &UnixListener) -> Result<tokio::net::UnixListener> {
    let doing = || "set up the socket";
    let listener = listener.try_clone().doing(doing)?;
    listener.set_nonblocking(true).doing(doing)?;
    tokio::net::UnixListener::from_std(listener).doing(doing)
}
