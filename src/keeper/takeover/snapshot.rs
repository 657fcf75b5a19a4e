//! What a keeper leaves to the process that is the keeper after it, whoever that is: its standby, a successor, or, by way of
//! systemd's store of descriptors, the next start of its unit. It holds the descriptors that cannot be opened again; the rest
//! is in the records on disk. A process that executes its program anew leaves more, see `reexec`.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use crate::keeper::own_log::warn;
use crate::keeper::protocol::{self, Holds, StateMessage};

/// See the module's head.
#[derive(Debug, Default)]
pub(in crate::keeper) struct Snapshot {
    /// Where clients connect.
    pub(in crate::keeper) listener: Option<OwnedFd>,
    /// The lock on the run directory.
    pub(in crate::keeper) lock: Option<OwnedFd>,
    /// What the containers have open, by id.
    pub(in crate::keeper) containers: BTreeMap<String, Descriptors>,
}

/// A container's descriptors as they are handed on.
#[derive(Debug, Default)]
pub(in crate::keeper) struct Descriptors {
    pub(in crate::keeper) process: Option<OwnedFd>,
    pub(in crate::keeper) stdin: Option<OwnedFd>,
    pub(in crate::keeper) stdout: Option<OwnedFd>,
    pub(in crate::keeper) stderr: Option<OwnedFd>,
    /// The keeper's end of the socket of its launcher, which has not said yet what it has made.
    pub(in crate::keeper) launcher: Option<OwnedFd>,
}

impl Descriptors {
    fn new(holds: Holds, fds: Vec<OwnedFd>) -> Self {
        let mut fds = fds.into_iter();
        let mut take = |there: bool| if there { fds.next() } else { None };
        Self {
            process: take(holds.process),
            stdin: take(holds.stdin),
            stdout: take(holds.stdout),
            stderr: take(holds.stderr),
            launcher: None,
        }
    }
}

/// How the transfer of the state ended.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::keeper) enum Received {
    /// By [`StateMessage::End`].
    Whole,
    /// Whose it is, is gone.
    CutOff,
}

/// Hears what is left to this process until there is no more; does `before` each time before it waits.
pub(in crate::keeper) fn receive_state(
    socket: impl AsFd,
    before: impl Fn(),
) -> (Received, BTreeMap<String, Descriptors>) {
    let mut held = BTreeMap::new();
    let mut buffer = [0; 1024];
    loop {
        before();
        let (length, fds) = match protocol::receive(&socket, &mut buffer) {
            Ok((length, fds)) if length > 0 => (length, fds),
            _ => return (Received::CutOff, held),
        };
        match protocol::decode(&buffer[..length]) {
            Ok(StateMessage::Holds(id, holds)) => drop(held.insert(id, Descriptors::new(holds, fds))),
            Ok(StateMessage::Launches(id)) => {
                drop(
                    held.insert(
                        id,
                        Descriptors { launcher: fds.into_iter().next(), ..Descriptors::default() },
                    ),
                );
            }
            Ok(StateMessage::Gone(id)) => drop(held.remove(&id)),
            Ok(StateMessage::End) => return (Received::Whole, held),
            // Keeper and standby are the same program; a successor has asked for the version before.
            Err(error) => warn(&format!("read what the keeper leaves: {error}")),
        }
    }
}
