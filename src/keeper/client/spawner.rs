//! Launches by the keeper, from the client's side.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;

use super::{Client, KEEPERS, PAUSE, SLOW_ANSWER, ended, unexpected};
use crate::error::{Doing, Error, Kind, Result};
use crate::keeper::protocol::{Order, Request, Response};
use crate::launch::apply::{SpawnRequest, Spawner};
use crate::record::format::PLAN;
use crate::sys::process::Spawned;

/// A launch by the keeper: it is the parent, the rest is done from here.
///
/// The keeper may be killed meanwhile. The next one has what that one had recorded, so this side asks it what became of the
/// launch: it goes on with the process that was made, or knows that there is none. `event_loop::life` has the table of all cases.
#[derive(Debug)]
pub struct KeeperSpawner {
    client: RefCell<Client>,
    order: Order,
    console: Option<OwnedFd>,
    /// Whether the keeper that was asked was killed, and `client` is connected to the next one.
    is_resumed: Cell<bool>,
}

impl KeeperSpawner {
    /// Launches as `order` says; `console` is the end of a socket pair over which the container's terminal comes.
    pub fn new(client: Client, order: Order, console: Option<OwnedFd>) -> Self {
        let order = Order { has_console: console.is_some(), ..order };
        Self { client: RefCell::new(client), order, console, is_resumed: Cell::new(false) }
    }

    /// The launch was good: the container stays.
    ///
    /// # Errors
    /// The keeper cannot be asked, or knows that the program was never executed.
    pub fn keep(&self) -> Result<()> {
        match self.decide(&Request::Keep, true) {
            // The next keeper has seen its end without knowing of the decision: then it has written the exit file.
            Err(error) if error.kind() == Kind::NotFound && self.has_exit() => Ok(()),
            other => other,
        }
    }

    fn has_exit(&self) -> bool {
        self.order.exit_file.as_ref().is_some_and(|path| path.exists())
    }

    /// The launch came to nothing: its process is killed, and what there is of the container forgotten.
    pub fn give_up(&self) {
        // When no keeper can be reached, the next one finds nobody who attends it.
        let _ = self.decide(&Request::GiveUp, false);
    }

    pub(super) fn decide(&self, request: &Request, keep: bool) -> Result<()> {
        let client = self.client.borrow();
        match client.done(request) {
            Err(error) if error.kind() == Kind::Unreachable => {}
            other => return other,
        }
        let request = Request::Decide { id: self.order.id.clone(), keep };
        Client::ask_any(&client.run, |keeper| keeper.done(&request))
    }

    /// What another keeper has of this launch.
    ///
    /// # Errors
    /// `Unreachable` when it has nothing: then nothing is left of it, and it may be tried again.
    fn resume(&self) -> Result<(Response, Vec<OwnedFd>)> {
        let request = Request::Resume { id: self.order.id.clone(), console: self.console.is_some() };
        let console: Vec<_> = self.console.iter().map(AsFd::as_fd).collect();
        let run = self.client.borrow().run.clone();
        for _ in 0..KEEPERS {
            let keeper = Client::connect_or_start(&run)?;
            match keeper.ask_within(&request, &console, SLOW_ANSWER) {
                Err(error) if error.kind() == Kind::Unreachable => std::thread::sleep(PAUSE),
                Err(error) if error.kind() == Kind::NotFound => break,
                other => {
                    self.client.replace(keeper);
                    self.is_resumed.set(true);
                    return other;
                }
            }
        }
        Err(lost(ended()))
    }
}

impl Spawner for KeeperSpawner {
    fn spawn(&self, request: SpawnRequest<'_>) -> Result<Spawned> {
        let bytes =
            PLAN.encode(request.plan).map_err(|error| error.while_doing("write the plan for the keeper"))?;
        let plan = memory_file(&bytes).doing(|| "write the plan to memory")?;
        let order =
            Order { oom_file: request.oom_file, has_cgroup: request.cgroup.is_some(), ..self.order.clone() };
        let mut fds = vec![plan.as_fd(), request.sync.as_fd()];
        fds.extend(request.cgroup);
        fds.extend(self.console.as_ref().map(AsFd::as_fd));
        fds.extend(request.fds.iter().map(AsFd::as_fd));
        let asked = self.client.borrow().ask_within(&Request::Launch(order), &fds, SLOW_ANSWER);
        match asked {
            Err(error) if error.kind() == Kind::Unreachable => self.resume().and_then(spawned),
            other => other.and_then(spawned),
        }
    }

    fn adopt(&self, _before: &Spawned, pid: i32) -> Result<Spawned> {
        match self.client.borrow().ask(&Request::Adopt(pid), &[]) {
            // A keeper that took over is not the parent of the copy. The copy waits for this side, and ends with this launch.
            Err(error) if error.kind() == Kind::Unreachable || self.is_resumed.get() => Err(lost(error)),
            other => other.and_then(spawned),
        }
    }
}

fn spawned((response, mut fds): (Response, Vec<OwnedFd>)) -> Result<Spawned> {
    match (response, fds.pop()) {
        (Response::Spawned(pid), Some(pidfd)) => Ok(Spawned { pid, pidfd }),
        _ => Err(unexpected()),
    }
}

fn memory_file(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let file = memfd_create(c"plan", MemfdFlags::CLOEXEC)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let count = rustix::io::write(&file, rest)?;
        rest = &rest[count..];
    }
    Ok(file)
}

/// Nothing is left of a launch that was asked for.
fn lost(error: Error) -> Error {
    Error::new(Kind::Unreachable, "the keeper was killed before it had the container")
        .because(error)
        .hint("try again")
}
