//! Connections: what clients ask, and what they are shown.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with, sockopt::socket_peercred};
use rustix::termios::{Winsize, tcsetwinsize};
use serde::{Deserialize, Serialize};

use super::container::Container;
use super::greeting::{self, Greeting, Upgraded};
use super::machine::{Event, Ran, State};
use super::poll::{Keeper, Poll, What};
use super::record::Record;
use super::spawn::{Launcher, Parts};
use super::wire::{self, Frame, MOST_DATA, Order, Refusal, Request, Response, Stdin, Stream, Terms};
use crate::error::{Error, Kind, Result};
use crate::record::Exit;
use crate::record::format::{KEEPER_PROTOCOL, Unreadable};

/// All connections, by key.
#[derive(Debug, Default)]
pub(super) struct Clients(pub(super) BTreeMap<u32, Client>);

/// One connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) socket: OwnedFd,
    pub(super) mode: Mode,
    /// Bytes of output that it was too slow for and has not heard of.
    pub(super) lost: u64,
    /// The end of its container, of which it has not heard yet.
    goodbye: Option<Exit>,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Mode {
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
    pub(super) fn contains(&self, key: u32) -> bool {
        self.0.contains_key(&key)
    }

    pub(super) fn add(&mut self, key: u32, socket: OwnedFd, mode: Mode) {
        self.0.insert(key, Client { socket, mode, lost: 0, goodbye: None });
    }

    /// All of them, for the next image of the keeper.
    pub(super) fn pass(&self) -> Vec<(u32, i32, Mode, u64, Option<Exit>)> {
        let pass = |(key, c): (&u32, &Client)| (*key, c.socket.as_raw_fd(), c.mode, c.lost, c.goodbye);
        self.0.iter().map(pass).collect()
    }

    /// One of an earlier image's.
    pub(super) fn take(&mut self, key: u32, socket: OwnedFd, mode: Mode, lost: u64, goodbye: Option<Exit>) {
        self.0.insert(key, Client { socket, mode, lost, goodbye });
    }

    /// Those that are still to hear of their container's end.
    pub(super) fn goodbyes(&self) -> Vec<u32> {
        self.0.iter().filter(|(_, client)| client.goodbye.is_some()).map(|(key, _)| *key).collect()
    }

    /// Answers a client; whether it took the answer.
    pub(super) fn answer(&self, client: u32, response: &Response, fds: &[BorrowedFd<'_>]) -> bool {
        self.0.get(&client).is_some_and(|client| wire::send(&client.socket, response, fds).is_ok())
    }

    /// Answers a client by bytes that are no response of this version's.
    pub(super) fn answer_bytes(&self, client: u32, bytes: &[u8]) {
        if let Some(client) = self.0.get(&client) {
            // Who does not take it is gone, or will be.
            let _ = wire::send_bytes(&client.socket, bytes, &[]);
        }
    }

    /// Tells those who wait for that whether the program is executed anew.
    pub(super) fn answer_upgrading(&mut self, answer: &Upgraded) {
        for client in self.0.values_mut() {
            let Mode::Upgrading { first } = client.mode else { continue };
            let asked = if first { Greeting::FirstUpgrade } else { Greeting::Upgrade };
            let _ = wire::send_bytes(&client.socket, &greeting::upgraded(asked, answer), &[]);
            client.mode = Mode::Asking;
        }
    }

    fn attached(&mut self, container: u32) -> impl Iterator<Item = (&u32, &mut Client)> {
        self.0
            .iter_mut()
            .filter(move |(_, client)| matches!(client.mode, Mode::Attached { key, .. } if key == container))
    }

    /// Shows new output to those who are attached. Clients that are too slow miss output, and learn how much.
    pub(super) fn show(&mut self, container: u32, stream: Stream, new: &[u8]) {
        for (_, client) in self.attached(container) {
            for piece in new.chunks(MOST_DATA) {
                let sent = client.say_lost()
                    && wire::send(&client.socket, &Frame::Output(stream, piece), &[]).is_ok();
                if !sent {
                    client.lost += piece.len() as u64;
                }
            }
        }
    }

    /// Tells a container's end to those who wait for it, are attached, or watch them all.
    pub(super) fn tell_exit(&mut self, poll: &Poll, container: u32, id: &str, exit: Exit) {
        let ended = Response::Ended(id.to_owned(), exit);
        // Who is too slow to hear of one is let go: it comes back, and looks for what it missed.
        self.0.retain(|_, client| {
            let heard = client.mode != Mode::Watching || wire::send(&client.socket, &ended, &[]).is_ok();
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
            let _ = wire::send(&client.socket, &Response::Exited(exit), &[]);
            client.mode = Mode::Asking;
        }
    }

    /// Stops listening to those who give a container input while it takes none, and listens again.
    pub(super) fn hold(&self, poll: &Poll, container: u32, hold: bool) {
        for (key, client) in &self.0 {
            if client.mode == (Mode::Attached { key: container, stdin: true }) && client.goodbye.is_none() {
                let flags = if hold { EventFlags::empty() } else { EventFlags::IN };
                poll.set(&client.socket, (What::Client, *key), flags);
            }
        }
    }

    /// Tells those who wait for that, that a container stays.
    pub(super) fn settle(&mut self, container: u32) {
        self.answer_settling(container, &Response::Done);
    }

    fn answer_settling(&mut self, container: u32, response: &Response) {
        for client in self.0.values_mut().filter(|c| c.mode == Mode::Settling(container)) {
            let _ = wire::send(&client.socket, response, &[]);
            client.mode = Mode::Asking;
        }
    }

    /// A container that is no more has no clients of its own.
    pub(super) fn forget(&mut self, container: u32) {
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

/// Why a launch was not good that its client thought to be.
fn never_ran(exit: Option<Exit>) -> String {
    match exit {
        Some(Exit { signal: Some(signal), .. }) => {
            format!("the container's first process was killed by signal {signal} while it was set up")
        }
        _ => "the container's first process ended while it was set up".to_owned(),
    }
}

impl Client {
    fn say_lost(&mut self) -> bool {
        if self.lost > 0 && wire::send(&self.socket, &Frame::Lost(self.lost), &[]).is_ok() {
            self.lost = 0;
        }
        self.lost == 0
    }

    /// Tells it the end, now or as soon as it has taken what came before.
    fn say_goodbye(&mut self, poll: &Poll, key: u32) {
        let Some(exit) = self.goodbye else { return };
        let said = match self.say_lost() {
            true => wire::send(&self.socket, &Frame::Exited(exit), &[]),
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

impl Keeper {
    pub(super) fn accept(&mut self) {
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = match accept_with(&self.listener, flags) {
                Ok(socket) => socket,
                // Who knocks waits until somebody leaves: to wake up for it all the time does not help.
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

    pub(super) fn serve_client(&mut self, key: u32, flags: EventFlags) {
        let Some(client) = self.clients.0.get_mut(&key) else { return };
        if flags.contains(EventFlags::OUT) {
            client.say_goodbye(&self.poll, key);
        }
        if !flags.intersects(EventFlags::IN | EventFlags::HUP | EventFlags::ERR) {
            return;
        }
        let mode = client.mode;
        let mut inbox = std::mem::take(&mut self.inbox);
        match wire::receive(&client.socket, &mut inbox) {
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

    /// There is room for one more.
    pub(super) fn listen_again(&self) {
        self.poll.add(&self.listener, (What::Listener, 0));
    }

    pub(super) fn client_left(&mut self, key: u32) {
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

    /// A client that gave a container input has no more of it.
    fn input_ended(&mut self, container: u32) {
        if self.containers.get(&container).is_some_and(|c| c.record.order.stdin == Stdin::Once) {
            self.close_input(container);
        }
    }

    fn take_frame(&mut self, container: u32, stdin: bool, bytes: &[u8]) {
        match wire::decode::<Frame<'_>>(bytes) {
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

    fn find(&self, id: &str) -> Option<u32> {
        self.containers.iter().find(|(_, container)| container.id() == id).map(|(key, _)| *key)
    }

    fn serve(&mut self, key: u32, bytes: &[u8], fds: Vec<OwnedFd>) {
        if let Some(greeting) = Greeting::read(bytes) {
            return self.greet(key, greeting);
        }
        let response = match wire::decode::<Request>(bytes) {
            Ok(request) => self.response_to(key, request, fds),
            Err(error) => return self.refuse_unreadable(key, &error),
        };
        if let Some(response) = response {
            self.clients.answer(key, &response, &[]);
        }
    }

    fn greet(&mut self, key: u32, greeting: Greeting) {
        match greeting {
            Greeting::Ask => self.clients.answer_bytes(key, &greeting::own_version()),
            Greeting::Upgrade | Greeting::FirstUpgrade => {
                self.set_mode(key, Mode::Upgrading { first: greeting == Greeting::FirstUpgrade });
                self.begin_upgrade();
            }
        }
    }

    /// Says no to what cannot be read. A client of another version sees ours in the head of the answer; one of version 1
    /// knows no heads, and gets it in its own words.
    fn refuse_unreadable(&self, key: u32, error: &Unreadable) {
        match error {
            Unreadable::Version { found: 1, .. } => {
                let ours = KEEPER_PROTOCOL.version;
                let why = format!(
                    "the keeper speaks version {ours} of its protocol, this coracle version 1: upgrade coracle"
                );
                self.clients.answer_bytes(key, &greeting::first_refusal(&why));
            }
            other => {
                let why = format!("read the request: {other}");
                self.clients.answer(key, &Response::Refused(Refusal::Failed(why)), &[]);
            }
        }
    }

    /// The answer, when there is one at once.
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

    fn set_mode(&mut self, key: u32, mode: Mode) {
        if let Some(client) = self.clients.0.get_mut(&key) {
            client.mode = mode;
        }
    }

    fn launch(&mut self, client: u32, order: Order, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
        if self.clients.0.get(&client).is_some_and(|client| client.mode != Mode::Asking) {
            return Err(Refusal::Failed("this connection attends a container already".to_owned()));
        }
        if self.find(&order.id).is_some() {
            return Err(Refusal::Exists);
        }
        self.start(client, order, fds).map_err(|error| Refusal::Failed(error.chain()))
    }

    fn start(&mut self, client: u32, order: Order, fds: Vec<OwnedFd>) -> Result<()> {
        let missing = || Error::new(Kind::Invalid, "descriptors are missing");
        // It becomes a directory's name.
        crate::id::ContainerId::parse(&order.id)?;
        let mut fds = fds.into_iter();
        let plan = fds.next().ok_or_else(missing)?;
        let sync = fds.next().ok_or_else(missing)?;
        let cgroup = order.has_cgroup.then(|| fds.next().ok_or_else(missing)).transpose()?;
        let console = order.has_console.then(|| fds.next().ok_or_else(missing)).transpose()?;
        self.run_dir.forget(&order.id);
        let made = self.run_dir.make(&order);
        let (ends, streams) = made.inspect_err(|_| self.run_dir.forget(&order.id))?;
        let parts = Parts { plan, sync, cgroup, opened: fds.collect(), streams };
        let tell = |socket: &OwnedFd| self.tell_standby_of_launch(&order.id, socket);
        let launcher = Launcher::start(parts, tell).inspect_err(|_| {
            self.run_dir.forget(&order.id);
            self.tell_standby_of_end(&order.id);
        })?;
        let record = Record { order, ..Record::default() };
        let mut container = Container::new(record, State::Launching, ends);
        let key = self.new_key();
        self.poll.add(&launcher.socket, (What::Launcher, key));
        if let Some(pidfd) = launcher.pidfd() {
            self.poll.add(pidfd, (What::Launcher, key));
        }
        container.launcher = Some(launcher);
        container.console = console;
        container.client = Some(client);
        self.containers.insert(key, container);
        self.set_mode(client, Mode::Attending(key));
        Ok(())
    }

    /// The container that a client attends goes on as another process.
    fn replace_process(&mut self, client: u32, pid: i32) -> Result<(), Refusal> {
        let mode = self.clients.0.get(&client).map(|client| client.mode);
        let Some(Mode::Attending(container)) = mode else { return Err(Refusal::Unknown) };
        self.adopt_copy(container, pid)
    }

    /// What a client says of the container that it attends.
    fn decide(&mut self, client: u32, event: Event) -> Result<(), Refusal> {
        let mode = self.clients.0.get(&client).map(|client| client.mode);
        let Some(Mode::Attending(container)) = mode else { return Err(Refusal::Unknown) };
        self.set_mode(client, Mode::Asking);
        self.decide_on(container, event)
    }

    fn decide_on(&mut self, container: u32, event: Event) -> Result<(), Refusal> {
        self.notice_end(container);
        let found = self.containers.get_mut(&container).ok_or(Refusal::Unknown)?;
        found.client = None;
        let in_vain = event == Event::Keep && found.state == State::EndedEarly(Ran::No);
        let exit = found.exit;
        self.apply(container, event);
        match in_vain {
            true => Err(Refusal::Failed(never_ran(exit))),
            false => Ok(()),
        }
    }

    fn is_decided(&self, container: u32) -> bool {
        self.containers.get(&container).is_some_and(|found| found.state == State::Kept)
    }

    /// A client whose keeper was killed comes back; no answer at once while there is something that has to end first.
    fn resume(&mut self, client: u32, id: &str, fds: Vec<OwnedFd>, console: bool) -> Option<Response> {
        let Some(key) = self.find(id) else { return Some(Response::Refused(Refusal::Unknown)) };
        let found = self.containers.get_mut(&key)?;
        match found.state {
            State::Launching => return Some(Response::Refused(Refusal::Exists)),
            State::Void | State::GivenUp | State::Gone => {
                self.set_mode(client, Mode::Settling(key));
                return None;
            }
            State::Attended | State::Unattended | State::Kept | State::EndedEarly(_) => {}
        }
        let before = found.client.replace(client);
        if console && found.stdout.is_none() && found.console.is_none() {
            found.console = fds.into_iter().next();
        }
        if let Some(before) = before {
            self.set_mode(before, Mode::Asking);
        }
        self.set_mode(client, Mode::Attending(key));
        self.apply(key, Event::Resumed);
        if let Some(console) = self.containers.get(&key).and_then(|c| c.console.as_ref()) {
            self.poll.add(console, (What::Console, key));
        }
        None
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
