//! The standby: a second process that sleeps, with a copy of every descriptor that cannot be opened again. When the keeper is
//! killed it becomes the keeper. So no terminal is hung up, no standard input closes, and how a container ended meanwhile is
//! known, because the kernel keeps that where a pidfd is held.

use std::convert::Infallible;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, pidfd_send_signal};

use super::serve::serve;
use super::snapshot::{Received, Snapshot, receive_state};
use crate::keeper::event_loop::{Keeper, RunDir, Standby, What};
use crate::keeper::own_log::warn;
use crate::sys;

/// Makes a standby, and gives it all there is.
pub(in crate::keeper) fn start(keeper: &mut Keeper) {
    let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
    let Ok((ours, theirs)) = socketpair(kind.0, kind.1, kind.2, None) else { return };
    // A standby that does not listen must not keep us waiting.
    let _ = rustix::io::ioctl_fionbio(&ours, true);
    let (run_dir, listener, lock) = (keeper.run_dir.clone(), &keeper.listener, &keeper.lock);
    let child = || stand_by(run_dir, listener, lock, &theirs);
    let standby = match sys::process::spawn(0, None, child) {
        Ok(spawned) => Standby { socket: ours, pidfd: spawned.pidfd },
        Err(errno) => return warn(&format!("start the standby: {errno}")),
    };
    keeper.poll.add(&standby.pidfd, (What::Standby, 0));
    keeper.standby = Some(standby);
    for key in keeper.containers.keys().copied().collect::<Vec<_>>() {
        keeper.update_standby(key);
    }
}

/// Ends the standby: nothing is to be taken over, or another standby was started.
pub(in crate::keeper) fn end(keeper: &mut Keeper) {
    let Some(standby) = keeper.standby.take() else { return };
    // A signal, for it may be of another release, which reads no message of this one.
    let _ = pidfd_send_signal(&standby.pidfd, Signal::KILL);
    let key = keeper.new_key();
    keeper.poll.add(&standby.pidfd, (What::Child, key));
    keeper.children.insert(key, standby.pidfd);
}

/// A standby of this image in the place of an earlier one's.
pub(in crate::keeper) fn renew(keeper: &mut Keeper) {
    let before = keeper.standby.take();
    start(keeper);
    let renewed = std::mem::replace(&mut keeper.standby, before);
    end(keeper);
    keeper.standby = renewed;
}

/// Sleeps until the keeper is gone, and is the keeper then.
fn stand_by(run_dir: RunDir, listener: &OwnedFd, lock: &OwnedFd, socket: &OwnedFd) -> Infallible {
    let mut keep = [listener.as_raw_fd(), lock.as_raw_fd(), socket.as_raw_fd()];
    keep.sort_unstable();
    // Before 5.9 they stay open.
    let _ = sys::process::close_all_but(3, &keep);
    let (ending, containers) = receive_state(socket, sys::memory::unmap_code);
    if ending == Received::Whole {
        sys::process::exit_now(0)
    }
    warn("the keeper is gone: taking over");
    // A service's main process is who gets its signals.
    if let Err(error) = crate::keeper::notify(&format!("MAINPID={}", std::process::id())) {
        warn(&format!("tell the supervisor: {error}"));
    }
    let own = |fd: &OwnedFd| fd.try_clone();
    match (own(listener), own(lock)) {
        (Ok(listener), Ok(lock)) => {
            serve(run_dir, Snapshot { listener: Some(listener), lock: Some(lock), containers }, None)
        }
        _ => warn("take over: no descriptor is left"),
    }
    sys::process::exit_now(0)
}
