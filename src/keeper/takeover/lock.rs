//! Which process is the keeper. It holds the lock for its process alone (fcntl(2), F_SETLK): a copy of the descriptor, in a
//! standby or in systemd's store, does not. A keeper that hands over lets it go before its last message to the successor, and
//! tries it again once that one has closed the connection, or is too slow: who has it then is the keeper, and the other ends.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

/// How often one that is about to serve tries the lock of one that is about to end, and how long it waits in between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Takes the lock of who serves; it goes with the process.
///
/// # Errors
/// `AGAIN` when another serves and goes on doing so.
pub(in crate::keeper) fn begin_to_serve(lock: &OwnedFd) -> rustix::io::Result<()> {
    for _ in 1..TRIES {
        match try_to_serve(lock) {
            Err(Errno::AGAIN | Errno::ACCESS) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    try_to_serve(lock)
}

pub(in crate::keeper) fn try_to_serve(lock: &OwnedFd) -> rustix::io::Result<()> {
    fcntl_lock(lock, FlockOperation::NonBlockingLockExclusive)
}

pub(in crate::keeper) fn stop_serving(lock: &OwnedFd) -> rustix::io::Result<()> {
    fcntl_lock(lock, FlockOperation::NonBlockingUnlock)
}

/// Whether another process serves.
pub(in crate::keeper) fn is_served(lock: &OwnedFd) -> bool {
    try_to_serve(lock).and_then(|()| stop_serving(lock)).is_err()
}
