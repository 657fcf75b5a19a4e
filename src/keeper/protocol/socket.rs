//! Where a keeper listens.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::SocketAddrUnix;

use crate::error::{Doing, Result};

/// The directories of the containers that a keeper has, which the next one finds: a client asks for one when it is there.
pub(in crate::keeper) fn containers(run: &Path) -> PathBuf {
    run.join("keeper")
}

/// The socket's address below a directory whose path may be longer than an address; valid while the descriptor lives.
pub(in crate::keeper) fn address(run: &Path) -> Result<(SocketAddrUnix, OwnedFd)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory =
        rustix::fs::open(run, flags, Mode::empty()).doing(|| format!("open {}", run.display()))?;
    let path = format!("/proc/self/fd/{}/keeper.sock", directory.as_raw_fd());
    SocketAddrUnix::new(path.as_str()).map(|address| (address, directory)).doing(|| "name the socket")
}
