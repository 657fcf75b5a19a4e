//! Launches: what their clients request until it is decided whether the container stays.

use std::os::fd::OwnedFd;

use super::life::{Event, Ran, State};
use super::spawn::{Launcher, Parts};
use super::{Container, Keeper, Mode, Record, What};
use crate::error::{Error, Kind, Result};
use crate::keeper::protocol::{Order, Refusal, Response};
use crate::record::Exit;

/// The refusal for a client that wants to keep a container whose program never ran.
fn never_ran(exit: Option<Exit>) -> String {
    match exit {
        Some(Exit { signal: Some(signal), .. }) => {
            format!("the container's first process was killed by signal {signal} while it was set up")
        }
        _ => "the container's first process ended while it was set up".to_owned(),
    }
}

impl Keeper {
    pub(super) fn launch(&mut self, client: u32, order: Order, fds: Vec<OwnedFd>) -> Result<(), Refusal> {
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
        // The id becomes the name of a directory.
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

    /// Replaces the process of the container that a client attends.
    pub(super) fn replace_process(&mut self, client: u32, pid: i32) -> Result<(), Refusal> {
        let mode = self.clients.0.get(&client).map(|client| client.mode);
        let Some(Mode::Attending(container)) = mode else { return Err(Refusal::Unknown) };
        self.adopt_copy(container, pid)
    }

    /// Keeps or gives up the container that a client attends.
    pub(super) fn decide(&mut self, client: u32, event: Event) -> Result<(), Refusal> {
        let mode = self.clients.0.get(&client).map(|client| client.mode);
        let Some(Mode::Attending(container)) = mode else { return Err(Refusal::Unknown) };
        self.set_mode(client, Mode::Asking);
        self.decide_on(container, event)
    }

    pub(super) fn decide_on(&mut self, container: u32, event: Event) -> Result<(), Refusal> {
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

    pub(super) fn is_decided(&self, container: u32) -> bool {
        self.containers.get(&container).is_some_and(|found| found.state == State::Kept)
    }

    /// A client whose keeper was killed resumes its launch. The response waits while a former process still has to end.
    pub(super) fn resume(
        &mut self,
        client: u32,
        id: &str,
        fds: Vec<OwnedFd>,
        console: bool,
    ) -> Option<Response> {
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
}
