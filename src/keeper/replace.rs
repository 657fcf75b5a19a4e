//! Giving way to a keeper that is to replace this one, such as systemd's unit when another started a keeper before it.
//!
//! Who serves holds the lock for its process alone (fcntl(2), F_SETLK): a copy of the descriptor, in a standby or in systemd's
//! store, does not. It is let go before the last message to the successor, and tried again once that one has closed the
//! connection, or is too slow: who has it then is the keeper, and the other one ends.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::client::Client;
use super::container::complain;
use super::poll::{End, Keeper};
use super::standby::{Received, Snapshot, StateMessage, receive_state};
use super::wire::{self, Request, Response};
use crate::error::{Error, Kind, Result};

/// How long a successor may take for each message, and then until it has a standby. Until then nobody reads what containers
/// write.
const PATIENCE: Duration = Duration::from_secs(5);

/// How often one that is about to serve tries the lock of one that is about to end, and how long it waits in between.
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(10);

/// Takes the lock of who serves; it goes with the process.
///
/// # Errors
/// `AGAIN` when another serves and goes on doing so.
pub(super) fn begin_to_serve(lock: &OwnedFd) -> rustix::io::Result<()> {
    for _ in 1..TRIES {
        match try_to_serve(lock) {
            Err(Errno::AGAIN | Errno::ACCESS) => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
    try_to_serve(lock)
}

fn try_to_serve(lock: &OwnedFd) -> rustix::io::Result<()> {
    fcntl_lock(lock, FlockOperation::NonBlockingLockExclusive)
}

fn stop_serving(lock: &OwnedFd) -> rustix::io::Result<()> {
    fcntl_lock(lock, FlockOperation::NonBlockingUnlock)
}

/// Whether another process serves.
pub(super) fn is_served(lock: &OwnedFd) -> bool {
    try_to_serve(lock).and_then(|()| stop_serving(lock)).is_err()
}

impl Keeper {
    /// Leaves everything to a client, and ends. A client that does not take it changes nothing.
    pub(super) fn hand_over_to(&mut self, client: u32) {
        self.settle_logs();
        let passed = self.pass_all(client);
        match (try_to_serve(&self.lock), passed) {
            (Err(_), _) => self.end = Some(End::Replaced),
            (Ok(()), Err(errno)) => complain(&format!("hand over to another keeper: {errno}")),
            (Ok(()), Ok(())) => complain("hand over to another keeper: it did not take over"),
        }
        self.client_left(client);
    }

    fn pass_all(&self, client: u32) -> rustix::io::Result<()> {
        // It is gone already: nobody is there to take over.
        let socket = &self.clients.0.get(&client).ok_or(Errno::PIPE)?.socket;
        rustix::io::ioctl_fionbio(socket, false)?;
        set_socket_timeout(socket, Timeout::Send, Some(PATIENCE))?;
        wire::send(socket, &Response::HandedOver, &[self.listener.as_fd(), self.lock.as_fd()])?;
        for container in self.containers.values() {
            let (message, fds) = container.state_message();
            wire::send(socket, &message, &fds)?;
        }
        stop_serving(&self.lock)?;
        wire::send(socket, &StateMessage::End, &[])?;
        let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
        poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&patience)).map(drop)
    }
}

impl Client {
    /// Takes over all that the keeper has; it ends once this connection is closed.
    ///
    /// # Errors
    /// The keeper cannot be asked, or ended before everything had come.
    pub(super) fn take_over(self) -> Result<Snapshot> {
        let (response, fds) = self.ask(&Request::TakeOver, &[])?;
        let both = <[_; 2]>::try_from(fds).ok().filter(|_| response == Response::HandedOver);
        let Some([listener, lock]) = both else { return Err(super::client::unexpected()) };
        let (ending, held) = receive_state(&self, || {});
        match ending {
            Received::Whole => Ok(Snapshot { listener, lock, held, predecessor: Some(self) }),
            Received::CutOff => {
                Err(Error::new(Kind::Unreachable, "the keeper ended before it had left all it has"))
            }
        }
    }
}
