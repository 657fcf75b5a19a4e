//! The event loop: one thread, which handles one event after the other and sleeps in between. Timers run only while a launch
//! is not decided, while the program is asked whether it can take over, and while a signal has asked the keeper to end.
//!
//! Nothing in here blocks. What is to happen with all of the keeper at once, such as its re-execution, is not done here: the
//! loop returns, and [`takeover`](super::takeover) does it and comes back.

mod actions;
mod clients;
mod container;
mod input;
mod launch;
mod life;
mod log;
mod poll;
mod requests;
mod run_dir;
mod spawn;
mod standby_link;
mod stream;
mod timer;
mod upgrade;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

pub(in crate::keeper) use clients::{Clients, Mode};
pub(in crate::keeper) use container::Container;
#[cfg(test)]
pub(in crate::keeper) use life::Ran;
pub(in crate::keeper) use life::State;
pub(in crate::keeper) use log::Lost;
pub(in crate::keeper) use poll::{Poll, What};
pub(in crate::keeper) use run_dir::{Ends, Record, RunDir};
pub(in crate::keeper) use spawn::{Launcher, Limits, reap_now};
pub(in crate::keeper) use standby_link::Standby;
pub(in crate::keeper) use stream::{Desk, Source};
pub(in crate::keeper) use timer::Timer;
pub(in crate::keeper) use upgrade::{Upgrade, can_resume};

use super::protocol::Stream;
use poll::Token;
use stream::Look;

/// Why the loop returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::keeper) enum Interrupt {
    /// A signal has asked the keeper to end, and nothing is on its way any more.
    Signalled,
    /// The program is to be executed anew.
    Reexecute,
    /// This client is to be the keeper.
    HandOver(u32),
    /// The standby was killed: another one is to be started.
    StandbyEnded,
}

/// The keeper.
#[derive(Debug)]
pub(in crate::keeper) struct Keeper {
    pub(in crate::keeper) poll: Poll,
    pub(in crate::keeper) run_dir: RunDir,
    pub(in crate::keeper) listener: OwnedFd,
    pub(in crate::keeper) lock: OwnedFd,
    pub(in crate::keeper) signals: OwnedFd,
    pub(in crate::keeper) standby: Option<Standby>,
    pub(in crate::keeper) containers: BTreeMap<u32, Container>,
    pub(in crate::keeper) clients: Clients,
    /// Processes that are only waited for: commands at a container's end.
    pub(in crate::keeper) children: BTreeMap<u32, OwnedFd>,
    pub(in crate::keeper) desk: Desk,
    /// Where messages are received: as large as one may be, touched only as far as they are.
    pub(in crate::keeper) inbox: Vec<u8>,
    pub(in crate::keeper) next: u32,
    /// Streams that had more when their turn was over.
    pub(in crate::keeper) unfinished: Vec<Token>,
    pub(in crate::keeper) upgrade: Upgrade,
    /// This client is to be the keeper as soon as nothing is being launched.
    pub(in crate::keeper) successor: Option<u32>,
    /// The standby has ended, and there is no other yet.
    pub(in crate::keeper) standby_ended: bool,
    /// A signal has asked the keeper to end.
    pub(in crate::keeper) is_signalled: bool,
    /// What is on its way when a signal ends the keeper may take until then.
    pub(in crate::keeper) grace: Option<Instant>,
    /// A child has ended that the keeper may not know.
    pub(in crate::keeper) may_have_strays: bool,
}

/// How long a launch may take when a signal ends the keeper.
const GRACE: Duration = Duration::from_secs(2);

impl Keeper {
    /// The keeper with nothing in it.
    ///
    /// # Errors
    /// The kernel refuses a descriptor that it needs.
    pub(in crate::keeper) fn new(run_dir: RunDir, listener: OwnedFd, lock: OwnedFd) -> Result<Self, Errno> {
        Ok(Self {
            poll: Poll::new()?,
            run_dir,
            listener,
            lock,
            signals: crate::sys::signal::capture_all()?,
            standby: None,
            containers: BTreeMap::new(),
            clients: Clients::default(),
            children: BTreeMap::new(),
            desk: Desk::new()?,
            inbox: vec![0; super::protocol::MOST],
            next: 0,
            unfinished: Vec::new(),
            upgrade: Upgrade::None,
            successor: None,
            standby_ended: false,
            is_signalled: false,
            grace: None,
            may_have_strays: true,
        })
    }

    /// Serves until something interrupts it; to be called again after that.
    pub(in crate::keeper) fn run(&mut self) -> Interrupt {
        // What only a start needs may go.
        crate::sys::memory::unmap_code();
        loop {
            if let Some(interrupt) = self.interrupt() {
                return interrupt;
            }
            let waits = [self.left_of_grace(), self.left_of_timers(), self.upgrade.left()];
            let longest = match self.unfinished.is_empty() {
                true => waits.into_iter().flatten().min(),
                false => Some(Duration::ZERO),
            };
            for (token, flags) in self.poll.wait(longest) {
                self.handle(token, flags);
            }
            for token in std::mem::take(&mut self.unfinished) {
                self.handle(token, EventFlags::IN);
            }
            self.look_at_timers();
            self.look_at_upgrade();
            self.reap_strays();
        }
    }

    /// What is to be done with all of the keeper, once nothing is on its way that would be lost: a launch goes over to nobody,
    /// and a terminal that has not come yet only to the next image of this process.
    fn interrupt(&mut self) -> Option<Interrupt> {
        let any = |is: fn(&Container) -> bool| self.containers.values().any(is);
        if std::mem::take(&mut self.standby_ended) {
            return Some(Interrupt::StandbyEnded);
        }
        if self.is_signalled && (self.grace_is_over() || !any(Container::is_arriving)) {
            return Some(Interrupt::Signalled);
        }
        if self.successor.is_some() && !any(Container::is_arriving) {
            return self.successor.take().map(Interrupt::HandOver);
        }
        if self.upgrade == Upgrade::Ready && !any(Container::is_launching) {
            self.upgrade = Upgrade::None;
            return Some(Interrupt::Reexecute);
        }
        None
    }

    fn grace_is_over(&self) -> bool {
        self.left_of_grace().is_none_or(|left| left.is_zero())
    }

    /// Waits for all that there is.
    pub(in crate::keeper) fn watch_all(&mut self) {
        self.poll.add(&self.listener, (What::Listener, 0));
        self.poll.add(&self.signals, (What::Signals, 0));
        for (key, child) in &self.children {
            self.poll.add(child, (What::Child, *key));
        }
        for (key, client) in &self.clients.0 {
            self.poll.add(&client.socket, (What::Client, *key));
        }
        for key in self.containers.keys().copied().collect::<Vec<_>>() {
            self.watch(key);
            // Input that waited for its container goes on waiting.
            self.write_input(key);
            for client in self.clients.goodbyes() {
                self.serve_client(client, EventFlags::OUT);
            }
        }
    }

    fn left_of_grace(&self) -> Option<Duration> {
        self.grace.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// A number that nothing here has.
    pub(in crate::keeper) fn new_key(&mut self) -> u32 {
        loop {
            self.next = self.next.wrapping_add(1);
            let key = self.next;
            let taken = self.containers.contains_key(&key)
                || self.clients.contains(key)
                || self.children.contains_key(&key);
            if !taken {
                return key;
            }
        }
    }

    fn handle(&mut self, (what, key): Token, flags: EventFlags) {
        match what {
            What::Listener => self.accept(),
            What::Signals => self.take_signals(),
            What::Standby => self.standby_has_ended(),
            What::Client => self.serve_client(key, flags),
            What::Launcher => self.launcher_reported(key),
            What::Console => self.take_console(key),
            What::Process => self.process_ended(key),
            What::Stdin => self.write_input(key),
            What::Stdout | What::Stderr => {
                // A terminal takes input again.
                if flags.contains(EventFlags::OUT) {
                    self.write_input(key);
                }
                self.look((what, key));
            }
            What::Child => self.reap(key),
        }
    }

    fn look(&mut self, token: Token) {
        let (what, key) = token;
        let Some(container) = self.containers.get_mut(&key) else { return };
        let clients = &mut self.clients;
        let (source, stream) = match what {
            What::Stderr => (&mut container.stderr, Stream::Stderr),
            _ => (&mut container.stdout, Stream::Stdout),
        };
        let Some(source) = source else { return };
        let mut show = |new: &[u8]| clients.show(key, stream, new);
        match source.look(&mut self.desk, &mut container.log, &mut show) {
            Look::Empty => {}
            Look::More => self.unfinished.push(token),
            Look::Closed => self.poll.remove(&source.fd),
        }
    }

    fn take_signals(&mut self) {
        let mut info = [0; crate::sys::signal::SIGINFO_SIZE];
        while rustix::io::read(&self.signals, &mut info) == Ok(info.len()) {
            match i32::from_ne_bytes([info[0], info[1], info[2], info[3]]) {
                libc::SIGHUP => self.begin_upgrade(),
                libc::SIGCHLD => self.may_have_strays = true,
                // The containers stay: a later keeper finds them by their records.
                libc::SIGTERM | libc::SIGINT => {
                    self.is_signalled = true;
                    self.grace.get_or_insert(Instant::now() + GRACE);
                }
                _ => {}
            }
        }
    }

    /// Reaps children that the keeper does not know: a process that forked into a PID namespace whose client was killed
    /// before it could report the copy. As a zombie, it would keep the first process of that namespace from ending.
    fn reap_strays(&mut self) {
        // The exit status of the program that is asked is the answer.
        if !self.may_have_strays || matches!(self.upgrade, Upgrade::Asking { .. }) {
            return;
        }
        while let Some(pid) = crate::sys::process::ended_child() {
            if self.containers.values().any(|container| container.record.pid == pid) {
                // Its own event is pending, and needs its exit status.
                return;
            }
            spawn::reap_pid(pid);
        }
        self.may_have_strays = false;
    }

    fn reap(&mut self, key: u32) {
        if let Some(pidfd) = self.children.remove(&key) {
            self.poll.remove(&pidfd);
            let has_succeeded = reap_now(&pidfd);
            self.program_has_answered(key, has_succeeded);
        }
    }
}
