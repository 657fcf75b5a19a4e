//! The standby: a second, sleeping process with a copy of every descriptor that cannot be opened again. When the keeper is killed
//! it becomes the keeper; a terminal is not hung up, a standard input does not end, and how a container ended meanwhile is
//! known, for the kernel keeps that where a pidfd is held.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, pidfd_send_signal};
use serde::{Deserialize, Serialize};

use super::client::Client;
use super::container::{Container, complain};
use super::poll::{Keeper, What};
use super::record::RunDir;
use super::wire;
use crate::sys;

/// What a keeper leaves to the next one.
#[derive(Debug)]
pub(super) struct Snapshot {
    pub(super) listener: OwnedFd,
    pub(super) lock: OwnedFd,
    /// What the containers have open, by id.
    pub(super) held: BTreeMap<String, Descriptors>,
    /// Who is to end: it waits until this is closed.
    pub(super) predecessor: Option<Client>,
}

/// The standby, from the keeper's side.
#[derive(Debug)]
pub(super) struct Standby {
    pub(super) socket: OwnedFd,
    pub(super) pidfd: OwnedFd,
}

/// What the standby and a successor are sent.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum StateMessage {
    /// These are a container's descriptors, as many as the flags say.
    Holds(String, Holds),
    /// The container is no more.
    Gone(String),
    /// To a successor: that was all.
    End,
    /// To the standby: a launcher is about to be started for this container; our end of its socket comes along.
    Launches(String),
}

/// Which descriptors come along, in this order.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Holds {
    process: bool,
    stdin: bool,
    stdout: bool,
    stderr: bool,
}

/// A container's descriptors as they are handed on.
#[derive(Debug, Default)]
pub(super) struct Descriptors {
    pub(super) process: Option<OwnedFd>,
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
    /// The keeper's end of the socket of its launcher, which has not said yet what it has made.
    pub(super) launcher: Option<OwnedFd>,
}

impl Container {
    /// The process, and the keeper's ends of the streams.
    pub(super) fn open(&self) -> [Option<&OwnedFd>; 4] {
        [
            self.process.as_ref(),
            self.stdin.as_ref(),
            self.stdout.as_ref().map(|source| &source.fd),
            self.stderr.as_ref().map(|source| &source.fd),
        ]
    }

    /// The message by which these are left to another.
    pub(super) fn state_message(&self) -> (StateMessage, Vec<BorrowedFd<'_>>) {
        let all = self.open();
        let [process, stdin, stdout, stderr] = all.map(|fd| fd.is_some());
        let fds = all.into_iter().flatten().map(AsFd::as_fd).collect();
        (StateMessage::Holds(self.id().to_owned(), Holds { process, stdin, stdout, stderr }), fds)
    }
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

impl Keeper {
    /// Makes a standby, and gives it all there is.
    pub(super) fn start_standby(&mut self) {
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let Ok((ours, theirs)) = socketpair(kind.0, kind.1, kind.2, None) else { return };
        // A standby that does not listen must not keep us waiting.
        let _ = rustix::io::ioctl_fionbio(&ours, true);
        let (run_dir, listener, lock) = (self.run_dir.clone(), &self.listener, &self.lock);
        let child = || stand_by(run_dir, listener, lock, &theirs);
        let standby = match sys::process::spawn(0, None, child) {
            Ok(spawned) => Standby { socket: ours, pidfd: spawned.pidfd },
            Err(errno) => return complain(&format!("start the standby: {errno}")),
        };
        self.poll.add(&standby.pidfd, (What::Standby, 0));
        self.standby = Some(standby);
        for key in self.containers.keys().copied().collect::<Vec<_>>() {
            self.update_standby(key);
        }
    }

    /// The standby was killed: there is to be another.
    pub(super) fn standby_is_gone(&mut self) {
        if let Some(standby) = self.standby.take() {
            self.poll.remove(&standby.pidfd);
            super::spawn::reap_now(&standby.pidfd);
            self.start_standby();
        }
    }

    pub(super) fn update_standby(&self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        if let Some(launcher) = &container.launcher {
            return self.tell_standby_of_launch(container.id(), &launcher.socket);
        }
        if container.process.is_some() {
            let (message, fds) = container.state_message();
            self.send_to_standby(&message, &fds);
        }
    }

    /// Whatever a launcher makes is known to the standby, too.
    pub(super) fn tell_standby_of_launch(&self, id: &str, launcher: &OwnedFd) {
        self.send_to_standby(&StateMessage::Launches(id.to_owned()), &[launcher.as_fd()]);
    }

    pub(super) fn tell_standby_of_end(&self, id: &str) {
        self.send_to_standby(&StateMessage::Gone(id.to_owned()), &[]);
    }

    /// Ends the standby: nothing is to be taken over, or another standby was started.
    pub(super) fn end_standby(&mut self) {
        let Some(standby) = self.standby.take() else { return };
        // A signal, for it may be of another release, which reads no message of this one.
        let _ = pidfd_send_signal(&standby.pidfd, Signal::KILL);
        let key = self.new_key();
        self.poll.add(&standby.pidfd, (What::Child, key));
        self.children.insert(key, standby.pidfd);
    }

    /// A standby of this image in the place of an earlier one's.
    pub(super) fn renew_standby(&mut self) {
        let before = self.standby.take();
        self.start_standby();
        let renewed = std::mem::replace(&mut self.standby, before);
        self.end_standby();
        self.standby = renewed;
    }

    fn send_to_standby(&self, message: &StateMessage, fds: &[BorrowedFd<'_>]) {
        if let Some(standby) = &self.standby {
            let _ = wire::send(&standby.socket, message, fds);
        }
    }
}

/// Sleeps until the keeper is gone, and is the keeper then.
fn stand_by(run_dir: RunDir, listener: &OwnedFd, lock: &OwnedFd, socket: &OwnedFd) -> Infallible {
    let mut keep = [listener.as_raw_fd(), lock.as_raw_fd(), socket.as_raw_fd()];
    keep.sort_unstable();
    // Before 5.9 they stay open.
    let _ = sys::process::close_all_but(3, &keep);
    let (ending, held) = receive_state(socket, sys::memory::unmap_code);
    if ending == Received::Whole {
        sys::process::exit_now(0)
    }
    complain("the keeper is gone: taking over");
    // A service's main process is who gets its signals.
    if let Err(error) = super::notify(&format!("MAINPID={}", std::process::id())) {
        complain(&format!("tell the supervisor: {error}"));
    }
    let own = |fd: &OwnedFd| fd.try_clone();
    match (own(listener), own(lock)) {
        (Ok(listener), Ok(lock)) => {
            super::start::serve(run_dir, Snapshot { listener, lock, held, predecessor: None })
        }
        _ => complain("take over: no descriptor is left"),
    }
    sys::process::exit_now(0)
}

/// How the transfer of the state ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// By [`StateMessage::End`].
    Whole,
    /// Whose it is, is gone.
    CutOff,
}

/// Hears what is left to this process until there is no more; does `before` each time before it waits.
pub(super) fn receive_state(
    socket: impl AsFd,
    before: impl Fn(),
) -> (Received, BTreeMap<String, Descriptors>) {
    let mut held = BTreeMap::new();
    let mut buffer = [0; 1024];
    loop {
        before();
        let (length, fds) = match wire::receive(&socket, &mut buffer) {
            Ok((length, fds)) if length > 0 => (length, fds),
            _ => return (Received::CutOff, held),
        };
        match wire::decode(&buffer[..length]) {
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
            Err(error) => complain(&format!("read what the keeper leaves: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::format::KEEPER_PROTOCOL;
    use crate::record::golden;

    #[test]
    fn golden_messages() {
        let holds = Holds { process: true, stdin: false, stdout: true, stderr: false };
        let message = |message: &StateMessage| KEEPER_PROTOCOL.encode(message).unwrap();
        let id = || "box".to_owned();
        let samples = [
            ("holds", message(&StateMessage::Holds(id(), holds))),
            ("gone", message(&StateMessage::Gone(id()))),
            ("end", message(&StateMessage::End)),
            ("launches", message(&StateMessage::Launches(id()))),
        ];
        golden::check("src/keeper/golden", "standby", KEEPER_PROTOCOL, &samples);
    }
}
