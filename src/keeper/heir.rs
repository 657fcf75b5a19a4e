//! The heir: a second, sleeping process with a copy of every descriptor that cannot be had again. When the keeper is killed
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
use super::record::Place;
use super::wire;
use crate::sys;

/// What a keeper leaves to the next one.
#[derive(Debug)]
pub(super) struct Estate {
    pub(super) listener: OwnedFd,
    pub(super) lock: OwnedFd,
    /// What the containers have open, by id.
    pub(super) held: BTreeMap<String, Held>,
    /// Who is to end: it waits until this is closed.
    pub(super) predecessor: Option<Client>,
}

/// The heir, from the keeper's side.
#[derive(Debug)]
pub(super) struct Heir {
    pub(super) socket: OwnedFd,
    pub(super) pidfd: OwnedFd,
}

/// What the heir is told, and a successor.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    /// These are a container's descriptors, as many as the flags say.
    Holds(String, Holds),
    /// The container is no more.
    Gone(String),
    /// To a successor: that was all.
    End,
    /// To the heir: a launcher is about to be started for this container; our end of its socket comes along.
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
pub(super) struct Held {
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

    /// The word by which these are left to another.
    pub(super) fn will(&self) -> (Word, Vec<BorrowedFd<'_>>) {
        let all = self.open();
        let [process, stdin, stdout, stderr] = all.map(|fd| fd.is_some());
        let fds = all.into_iter().flatten().map(AsFd::as_fd).collect();
        (Word::Holds(self.id().to_owned(), Holds { process, stdin, stdout, stderr }), fds)
    }
}

impl Held {
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
    /// Makes an heir, and gives it all there is.
    pub(super) fn make_heir(&mut self) {
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let Ok((ours, theirs)) = socketpair(kind.0, kind.1, kind.2, None) else { return };
        // An heir that does not listen must not keep us waiting.
        let _ = rustix::io::ioctl_fionbio(&ours, true);
        let (place, listener, lock) = (self.place.clone(), &self.listener, &self.lock);
        let child = || wait_for_inheritance(place, listener, lock, &theirs);
        let heir = match sys::process::spawn(0, None, child) {
            Ok(spawned) => Heir { socket: ours, pidfd: spawned.pidfd },
            Err(errno) => return complain(&format!("start the heir: {errno}")),
        };
        self.poll.add(&heir.pidfd, (What::Heir, 0));
        self.heir = Some(heir);
        for key in self.containers.keys().copied().collect::<Vec<_>>() {
            self.tell_heir(key);
        }
    }

    /// The heir was killed: there is to be another.
    pub(super) fn heir_is_gone(&mut self) {
        if let Some(heir) = self.heir.take() {
            self.poll.remove(&heir.pidfd);
            super::birth::reap_now(&heir.pidfd);
            self.make_heir();
        }
    }

    pub(super) fn tell_heir(&self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        if let Some(launcher) = &container.launcher {
            return self.heir_hears_of(container.id(), &launcher.socket);
        }
        if container.process.is_some() {
            let (word, fds) = container.will();
            self.say_to_heir(&word, &fds);
        }
    }

    /// Whatever a launcher makes is known to the heir, too.
    pub(super) fn heir_hears_of(&self, id: &str, launcher: &OwnedFd) {
        self.say_to_heir(&Word::Launches(id.to_owned()), &[launcher.as_fd()]);
    }

    pub(super) fn heir_forgets(&self, id: &str) {
        self.say_to_heir(&Word::Gone(id.to_owned()), &[]);
    }

    /// Ends the heir: there is nothing to inherit, or there will be a new one.
    pub(super) fn dismiss_heir(&mut self) {
        let Some(heir) = self.heir.take() else { return };
        // A signal, for it may be of another release, which reads no message of this one.
        let _ = pidfd_send_signal(&heir.pidfd, Signal::KILL);
        let key = self.new_key();
        self.poll.add(&heir.pidfd, (What::Child, key));
        self.children.insert(key, heir.pidfd);
    }

    /// An heir of this image in the place of an earlier one's.
    pub(super) fn renew_heir(&mut self) {
        let before = self.heir.take();
        self.make_heir();
        let renewed = std::mem::replace(&mut self.heir, before);
        self.dismiss_heir();
        self.heir = renewed;
    }

    fn say_to_heir(&self, word: &Word, fds: &[BorrowedFd<'_>]) {
        if let Some(heir) = &self.heir {
            let _ = wire::send(&heir.socket, word, fds);
        }
    }
}

/// Sleeps until the keeper is gone, and is the keeper then.
fn wait_for_inheritance(place: Place, listener: &OwnedFd, lock: &OwnedFd, socket: &OwnedFd) -> Infallible {
    let mut keep = [listener.as_raw_fd(), lock.as_raw_fd(), socket.as_raw_fd()];
    keep.sort_unstable();
    // Before 5.9 they stay open.
    let _ = sys::process::close_all_but(3, &keep);
    let (ending, held) = read_will(socket, sys::memory::unmap_code);
    if ending == Ending::Said {
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
            super::start::serve(place, Estate { listener, lock, held, predecessor: None })
        }
        _ => complain("take over: no descriptor is left"),
    }
    sys::process::exit_now(0)
}

/// How a will came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// By [`Word::End`].
    Said,
    /// Whose it is, is gone.
    Gone,
}

/// Hears what is left to this process until there is no more; does `before` each time before it waits.
pub(super) fn read_will(socket: impl AsFd, before: impl Fn()) -> (Ending, BTreeMap<String, Held>) {
    let mut held = BTreeMap::new();
    let mut buffer = [0; 1024];
    loop {
        before();
        let (length, fds) = match wire::receive(&socket, &mut buffer) {
            Ok((length, fds)) if length > 0 => (length, fds),
            _ => return (Ending::Gone, held),
        };
        match wire::decode(&buffer[..length]) {
            Ok(Word::Holds(id, holds)) => drop(held.insert(id, Held::new(holds, fds))),
            Ok(Word::Launches(id)) => {
                drop(held.insert(id, Held { launcher: fds.into_iter().next(), ..Held::default() }));
            }
            Ok(Word::Gone(id)) => drop(held.remove(&id)),
            Ok(Word::End) => return (Ending::Said, held),
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
        let word = |word: &Word| KEEPER_PROTOCOL.encode(word).unwrap();
        let id = || "box".to_owned();
        let samples = [
            ("holds", word(&Word::Holds(id(), holds))),
            ("gone", word(&Word::Gone(id()))),
            ("end", word(&Word::End)),
            ("launches", word(&Word::Launches(id()))),
        ];
        golden::check("src/keeper/golden", "standby", KEEPER_PROTOCOL, &samples);
    }
}
