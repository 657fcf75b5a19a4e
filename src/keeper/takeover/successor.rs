//! Handing over to a keeper that is to replace this one, such as systemd's unit when another started a keeper before it.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::lock::{stop_serving, try_to_serve};
use super::snapshot::{Received, Snapshot, receive_state};
use crate::error::{Error, Kind, Result};
use crate::keeper::client::{Client, unexpected};
use crate::keeper::event_loop::Keeper;
use crate::keeper::own_log::warn;
use crate::keeper::protocol::{self, Request, Response, StateMessage};

/// How long a successor may take for each message, and then until it has a standby. Until then nobody reads what containers
/// write.
const PATIENCE: Duration = Duration::from_secs(5);

/// Leaves everything to a client; whether that is the keeper from here on. A client that does not take it changes nothing.
pub(in crate::keeper) fn hand_over(keeper: &mut Keeper, client: u32) -> bool {
    keeper.settle_logs();
    let passed = pass_all(keeper, client);
    let has_taken_over = match (try_to_serve(&keeper.lock), passed) {
        (Err(_), _) => true,
        (Ok(()), Err(errno)) => {
            warn(&format!("hand over to another keeper: {errno}"));
            false
        }
        (Ok(()), Ok(())) => {
            warn("hand over to another keeper: it did not take over");
            false
        }
    };
    keeper.client_left(client);
    has_taken_over
}

fn pass_all(keeper: &Keeper, client: u32) -> rustix::io::Result<()> {
    // It is gone already: nobody is there to take over.
    let socket = &keeper.clients.0.get(&client).ok_or(Errno::PIPE)?.socket;
    rustix::io::ioctl_fionbio(socket, false)?;
    set_socket_timeout(socket, Timeout::Send, Some(PATIENCE))?;
    protocol::send(socket, &Response::HandedOver, &[keeper.listener.as_fd(), keeper.lock.as_fd()])?;
    for container in keeper.containers.values() {
        let (message, fds) = container.state_message();
        protocol::send(socket, &message, &fds)?;
    }
    stop_serving(&keeper.lock)?;
    protocol::send(socket, &StateMessage::End, &[])?;
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&patience)).map(drop)
}

/// Takes over all that the keeper behind this connection has. It ends once the connection, which comes back, is closed.
///
/// # Errors
/// The keeper cannot be asked, or ended before everything had come.
pub(in crate::keeper) fn take_over(keeper: Client) -> Result<(Snapshot, Client)> {
    let (response, fds) = keeper.ask(&Request::TakeOver, &[])?;
    let both = <[_; 2]>::try_from(fds).ok().filter(|_| response == Response::HandedOver);
    let Some([listener, lock]) = both else { return Err(unexpected()) };
    match receive_state(&keeper, || {}) {
        (Received::Whole, containers) => {
            Ok((Snapshot { listener: Some(listener), lock: Some(lock), containers }, keeper))
        }
        (Received::CutOff, _) => {
            Err(Error::new(Kind::Unreachable, "the keeper ended before it had left all it has"))
        }
    }
}
