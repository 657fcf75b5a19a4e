//! Connections of clients, and what is sent to them.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::{Poll, What};
use crate::keeper::protocol::{self, Frame, MOST_DATA, Refusal, Response, Stream};
use crate::keeper::protocol::{Greeting, Upgraded};
use crate::record::Exit;

/// All connections, by key.
#[derive(Debug, Default)]
pub(in crate::keeper) struct Clients(pub(in crate::keeper) BTreeMap<u32, Client>);

/// One connection.
#[derive(Debug)]
pub(in crate::keeper) struct Client {
    pub(in crate::keeper) socket: OwnedFd,
    pub(in crate::keeper) mode: Mode,
    /// Bytes of output that it was too slow for and has not heard of.
    pub(in crate::keeper) lost: u64,
    /// The end of its container, of which it has not heard yet.
    goodbye: Option<Exit>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::keeper) enum Mode {
    /// It asks one thing after the other.
    Asking,
    /// It has launched this container and attends it.
    Attending(u32),
    /// It waits for this container's end.
    Waiting(u32),
    /// It waits until it is decided whether this container stays.
    Settling(u32),
    /// It is shown this container's output; with `stdin` it gives it input, too.
    Attached { key: u32, stdin: bool },
    /// It gets a report of every container's end.
    Watching,
    /// It waits for whether the program can be executed anew; `first` when it is of version 1.
    Upgrading { first: bool },
}

impl Clients {
    pub(in crate::keeper) fn contains(&self, key: u32) -> bool {
        self.0.contains_key(&key)
    }

    pub(in crate::keeper) fn add(&mut self, key: u32, socket: OwnedFd, mode: Mode) {
        self.0.insert(key, Client { socket, mode, lost: 0, goodbye: None });
    }

    /// All of them, for the next image of the keeper.
    pub(in crate::keeper) fn pass(&self) -> Vec<(u32, i32, Mode, u64, Option<Exit>)> {
        let pass = |(key, c): (&u32, &Client)| (*key, c.socket.as_raw_fd(), c.mode, c.lost, c.goodbye);
        self.0.iter().map(pass).collect()
    }

    /// One of an earlier image's.
    pub(in crate::keeper) fn take(
        &mut self,
        key: u32,
        socket: OwnedFd,
        mode: Mode,
        lost: u64,
        goodbye: Option<Exit>,
    ) {
        self.0.insert(key, Client { socket, mode, lost, goodbye });
    }

    /// Those that are still to hear of their container's end.
    pub(in crate::keeper) fn goodbyes(&self) -> Vec<u32> {
        self.0.iter().filter(|(_, client)| client.goodbye.is_some()).map(|(key, _)| *key).collect()
    }

    /// Answers a client; whether it took the answer.
    pub(in crate::keeper) fn answer(&self, client: u32, response: &Response, fds: &[BorrowedFd<'_>]) -> bool {
        self.0.get(&client).is_some_and(|client| protocol::send(&client.socket, response, fds).is_ok())
    }

    /// Answers a client by bytes that are no response of this version's.
    pub(in crate::keeper) fn answer_bytes(&self, client: u32, bytes: &[u8]) {
        if let Some(client) = self.0.get(&client) {
            // A client that does not take it is gone, or will be.
            let _ = protocol::send_bytes(&client.socket, bytes, &[]);
        }
    }

    /// Tells those who wait for that whether the program is executed anew.
    pub(in crate::keeper) fn answer_upgrading(&mut self, answer: &Upgraded) {
        for client in self.0.values_mut() {
            let Mode::Upgrading { first } = client.mode else { continue };
            let asked = if first { Greeting::FirstUpgrade } else { Greeting::Upgrade };
            let _ = protocol::send_bytes(&client.socket, &protocol::upgraded(asked, answer), &[]);
            client.mode = Mode::Asking;
        }
    }

    fn attached(&mut self, container: u32) -> impl Iterator<Item = (&u32, &mut Client)> {
        self.0
            .iter_mut()
            .filter(move |(_, client)| matches!(client.mode, Mode::Attached { key, .. } if key == container))
    }

    /// Shows new output to those who are attached. Clients that are too slow miss output, and learn how much.
    pub(in crate::keeper) fn show(&mut self, container: u32, stream: Stream, new: &[u8]) {
        for (_, client) in self.attached(container) {
            for piece in new.chunks(MOST_DATA) {
                let sent = client.say_lost()
                    && protocol::send(&client.socket, &Frame::Output(stream, piece), &[]).is_ok();
                if !sent {
                    client.lost += piece.len() as u64;
                }
            }
        }
    }

    /// Tells a container's end to those who wait for it, are attached, or watch them all.
    pub(in crate::keeper) fn tell_exit(&mut self, poll: &Poll, container: u32, id: &str, exit: Exit) {
        let ended = Response::Ended(id.to_owned(), exit);
        // A client that is too slow is disconnected: it connects again and looks for what it missed.
        self.0.retain(|_, client| {
            let heard = client.mode != Mode::Watching || protocol::send(&client.socket, &ended, &[]).is_ok();
            if !heard {
                poll.remove(&client.socket);
            }
            heard
        });
        for (key, client) in self.attached(container) {
            client.goodbye = Some(exit);
            client.say_goodbye(poll, *key);
        }
        for client in self.0.values_mut().filter(|c| c.mode == Mode::Waiting(container)) {
            let _ = protocol::send(&client.socket, &Response::Exited(exit), &[]);
            client.mode = Mode::Asking;
        }
    }

    /// Stops listening to those who give a container input while it takes none, and listens again.
    pub(in crate::keeper) fn hold(&self, poll: &Poll, container: u32, hold: bool) {
        for (key, client) in &self.0 {
            if client.mode == (Mode::Attached { key: container, stdin: true }) && client.goodbye.is_none() {
                let flags = if hold { EventFlags::empty() } else { EventFlags::IN };
                poll.set(&client.socket, (What::Client, *key), flags);
            }
        }
    }

    /// Tells those who wait for that, that a container stays.
    pub(in crate::keeper) fn settle(&mut self, container: u32) {
        self.answer_settling(container, &Response::Done);
    }

    fn answer_settling(&mut self, container: u32, response: &Response) {
        for client in self.0.values_mut().filter(|c| c.mode == Mode::Settling(container)) {
            let _ = protocol::send(&client.socket, response, &[]);
            client.mode = Mode::Asking;
        }
    }

    /// A container that is no more has no clients of its own.
    pub(in crate::keeper) fn forget(&mut self, container: u32) {
        self.answer_settling(container, &Response::Refused(Refusal::Unknown));
        for client in self.0.values_mut() {
            let its = match client.mode {
                Mode::Asking | Mode::Watching | Mode::Upgrading { .. } => false,
                Mode::Settling(key) => key == container,
                Mode::Attending(key) | Mode::Waiting(key) => key == container,
                // It hears of the end first.
                Mode::Attached { key, .. } => key == container && client.goodbye.is_none(),
            };
            if its {
                client.mode = Mode::Asking;
            }
        }
    }
}

impl Client {
    fn say_lost(&mut self) -> bool {
        if self.lost > 0 && protocol::send(&self.socket, &Frame::Lost(self.lost), &[]).is_ok() {
            self.lost = 0;
        }
        self.lost == 0
    }

    /// Tells it the end, now or as soon as it has taken what came before.
    pub(super) fn say_goodbye(&mut self, poll: &Poll, key: u32) {
        let Some(exit) = self.goodbye else { return };
        let said = match self.say_lost() {
            true => protocol::send(&self.socket, &Frame::Exited(exit), &[]),
            false => Err(Errno::AGAIN),
        };
        let flags = match said {
            Err(Errno::AGAIN) => EventFlags::IN | EventFlags::OUT,
            _ => {
                (self.goodbye, self.mode) = (None, Mode::Asking);
                EventFlags::IN
            }
        };
        poll.set(&self.socket, (What::Client, key), flags);
    }
}
