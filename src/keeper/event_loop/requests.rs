//! What clients request, and what attached clients send.

use std::os::fd::OwnedFd;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt::socket_peercred};
use rustix::termios::{Winsize, tcsetwinsize};

use super::clients::Mode;
use super::life::Event;
use super::{Container, Keeper, What};
use crate::keeper::protocol::{self, Frame, Greeting, Refusal, Request, Response, Stdin, Terms};
use crate::record::format::{KEEPER_PROTOCOL, Unreadable};

impl Keeper {
    pub(in crate::keeper) fn accept(&mut self) {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                // No descriptor is left. Clients wait in the backlog until another client leaves: polling on would spin.
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    return self.poll.remove(&self.listener);
                }
                Err(_) => return,
            };
            let own = rustix::process::geteuid();
            let may = socket_peercred(&socket).is_ok_and(|peer| peer.uid == own || peer.uid.is_root());
            if may {
                let key = self.new_key();
                self.poll.add(&socket, (What::Client, key));
                self.clients.add(key, socket, Mode::Asking);
            }
        }
    }

    pub(in crate::keeper) fn serve_client(&mut self, key: u32, flags: EventFlags) {
        let Some(client) = self.clients.0.get_mut(&key) else { return };
        if flags.contains(EventFlags::OUT) {
            client.say_goodbye(&self.poll, key);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        let mode = client.mode;
        let mut inbox = std::mem::take(&mut self.inbox);
        match protocol::receive(&client.socket, &mut inbox) {
            Ok((0, _)) => self.client_left(key),
            Ok((length, fds)) => match mode {
                Mode::Attached { key: container, stdin } => {
                    self.take_frame(container, stdin, &inbox[..length]);
                }
                _ => self.serve(key, &inbox[..length], fds),
            },
            Err(Errno::AGAIN) => {}
            Err(_) => self.client_left(key),
        }
        self.inbox = inbox;
    }

    /// Accepts clients again after a descriptor was closed.
    pub(in crate::keeper) fn listen_again(&self) {
        self.poll.add(&self.listener, (What::Listener, 0));
    }

    pub(in crate::keeper) fn client_left(&mut self, key: u32) {
        let Some(client) = self.clients.0.remove(&key) else { return };
        self.poll.remove(&client.socket);
        drop(client.socket);
        self.listen_again();
        match client.mode {
            Mode::Attending(container) => self.apply(container, Event::Unattended),
            Mode::Attached { key: container, stdin: true } => self.input_ended(container),
            Mode::Attached { .. } | Mode::Asking | Mode::Waiting(_) | Mode::Settling(_) => {}
            Mode::Watching | Mode::Upgrading { .. } => {}
        }
    }

    /// A client has sent the end of its input.
    fn input_ended(&mut self, container: u32) {
        if self.containers.get(&container).is_some_and(|c| c.record.order.stdin == Stdin::Once) {
            self.close_input(container);
        }
    }

    fn take_frame(&mut self, container: u32, stdin: bool, bytes: &[u8]) {
        match protocol::decode::<Frame<'_>>(bytes) {
            Ok(Frame::Input(data)) if stdin => {
                if let Some(found) = self.containers.get_mut(&container) {
                    found.input.extend_from_slice(data);
                    self.write_input(container);
                }
            }
            Ok(Frame::InputEnd) if stdin => self.input_ended(container),
            Ok(Frame::Resize(rows, columns)) => drop(self.resize(container, rows, columns)),
            _ => {}
        }
    }

    pub(super) fn find(&self, id: &str) -> Option<u32> {
        self.containers.iter().find(|(_, container)| container.id() == id).map(|(key, _)| *key)
    }

    fn serve(&mut self, key: u32, bytes: &[u8], fds: Vec<OwnedFd>) {
        if let Some(greeting) = Greeting::read(bytes) {
            return self.greet(key, greeting);
        }
        let response = match protocol::decode::<Request>(bytes) {
            Ok(request) => self.response_to(key, request, fds),
            Err(error) => return self.refuse_unreadable(key, &error),
        };
        if let Some(response) = response {
            self.clients.answer(key, &response, &[]);
        }
    }

    fn greet(&mut self, key: u32, greeting: Greeting) {
        match greeting {
            Greeting::Ask => self.clients.answer_bytes(key, &protocol::own_version()),
            Greeting::Upgrade | Greeting::FirstUpgrade => {
                self.set_mode(key, Mode::Upgrading { first: greeting == Greeting::FirstUpgrade });
                self.begin_upgrade();
            }
        }
    }

    /// Refuses a request that cannot be read. A client of another version finds this keeper's version in the head of the answer.
    /// A client of version 1 knows no heads, and gets the refusal in its own encoding.
    fn refuse_unreadable(&self, key: u32, error: &Unreadable) {
        match error {
            Unreadable::Version { found: 1, .. } => {
                let ours = KEEPER_PROTOCOL.version;
                let why = format!(
                    "the keeper speaks version {ours} of its protocol, this coracle version 1: upgrade coracle"
                );
                self.clients.answer_bytes(key, &protocol::first_refusal(&why));
            }
            other => {
                let why = format!("read the request: {other}");
                self.clients.answer(key, &Response::Refused(Refusal::Failed(why)), &[]);
            }
        }
    }

    /// Handles a request. `None` when the response comes later.
    fn response_to(&mut self, key: u32, request: Request, fds: Vec<OwnedFd>) -> Option<Response> {
        let done =
            |result: Result<(), Refusal>| Some(result.map_or_else(Response::Refused, |()| Response::Done));
        match request {
            Request::Launch(order) => match self.launch(key, order, fds) {
                Ok(()) => None,
                Err(refusal) => Some(Response::Refused(refusal)),
            },
            Request::Keep => done(self.decide(key, Event::Keep)),
            Request::GiveUp => done(self.decide(key, Event::GiveUp)),
            Request::Wait(id) => match self.find(&id) {
                Some(container) => {
                    self.set_mode(key, Mode::Waiting(container));
                    None
                }
                None => Some(Response::Refused(Refusal::Unknown)),
            },
            Request::Attach { id, stdin } => {
                Some(self.attach(key, &id, stdin).map_or_else(Response::Refused, Response::Attached))
            }
            Request::CloseStdin(id) => done(self.close_stdin(&id)),
            Request::Resize { id, rows, columns } => {
                let found = self.find(&id).ok_or(Refusal::Unknown);
                done(found.and_then(|container| self.resize(container, rows, columns)))
            }
            Request::Reopen(id) => done(self.reopen(&id)),
            Request::Watch => {
                self.set_mode(key, Mode::Watching);
                done(Ok(()))
            }
            Request::List => {
                let pid = |c: &Container| (c.id().to_owned(), c.record.pid);
                Some(Response::Listed(self.containers.values().map(pid).collect()))
            }
            Request::TakeOver => {
                self.successor = Some(key);
                None
            }
            Request::Resume { id, console } => self.resume(key, &id, fds, console),
            Request::Decide { id, keep } => {
                let event = if keep { Event::Keep } else { Event::GiveUp };
                let found = self.find(&id).ok_or(Refusal::Unknown);
                done(found.and_then(|container| self.decide_on(container, event)))
            }
            Request::Settle(id) => match self.find(&id) {
                Some(container) if self.is_decided(container) => Some(Response::Done),
                Some(container) => {
                    self.set_mode(key, Mode::Settling(container));
                    None
                }
                None => Some(Response::Refused(Refusal::Unknown)),
            },
            Request::Adopt(pid) => self.replace_process(key, pid).err().map(Response::Refused),
        }
    }

    pub(super) fn set_mode(&mut self, key: u32, mode: Mode) {
        if let Some(client) = self.clients.0.get_mut(&key) {
            client.mode = mode;
        }
    }

    fn attach(&mut self, client: u32, id: &str, stdin: bool) -> Result<Terms, Refusal> {
        let key = self.find(id).ok_or(Refusal::Unknown)?;
        let found = self.containers.get(&key).ok_or(Refusal::Unknown)?;
        let stdin = stdin && found.input_end().is_some();
        let terminal = found.record.order.has_console;
        self.set_mode(client, Mode::Attached { key, stdin });
        Ok(Terms { terminal, stdin })
    }

    fn close_stdin(&mut self, id: &str) -> Result<(), Refusal> {
        let key = self.find(id).ok_or(Refusal::Unknown)?;
        let open = self.containers.get(&key).is_some_and(|c| c.input_end().is_some());
        if open {
            self.close_input(key);
        }
        open.then_some(()).ok_or(Refusal::Closed)
    }

    fn resize(&mut self, container: u32, rows: u16, columns: u16) -> Result<(), Refusal> {
        let found = self.containers.get(&container).ok_or(Refusal::Unknown)?;
        let master = found.input_end().filter(|_| found.record.order.has_console);
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let master = master.ok_or(Refusal::Closed)?;
        tcsetwinsize(master, size).map_err(|errno| Refusal::Failed(format!("resize the terminal: {errno}")))
    }

    fn reopen(&mut self, id: &str) -> Result<(), Refusal> {
        let key = self.find(id).ok_or(Refusal::Unknown)?;
        let found = self.containers.get_mut(&key).ok_or(Refusal::Unknown)?;
        found.log.reopen().map_err(|errno| Refusal::Failed(format!("open the log anew: {errno}")))
    }
}
