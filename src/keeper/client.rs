//! The client's side: reaching the keeper, or starting it, and asking it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::start::address;
use super::wire::{self, Exit, Frame, MOST, Order, Refusal, Reply, Request, Terms};
use crate::error::{Doing, Error, Kind, Result};
use crate::launch::apply::{Birth, Parent};
use crate::launch::self_protect::own_path;
use crate::sys::process::Spawned;

/// How often a keeper that was just started is tried, and how long is waited in between.
const TRIES: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);

/// The variable that names the keeper's program, when it does not lie beside this one.
const PROGRAM: &str = "CORACLE_KEEPER";

/// A connection to the keeper.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
}

impl Client {
    /// Reaches the keeper that serves `run`.
    ///
    /// # Errors
    /// `Unreachable` when there is none; `Denied` to those who may not.
    pub fn connect(run: &Path) -> Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .doing(|| "make a socket")?;
        let doing = || format!("reach the keeper of {}", run.display());
        let unreachable = |error: Error| match error.kind() {
            Kind::Denied => error,
            _ => Error::new(Kind::Unreachable, doing()).because(error).hint("does coracle-keeper run?"),
        };
        let (address, _directory) = address(run).map_err(unreachable)?;
        connect(&socket, &address).doing(doing).map_err(unreachable)?;
        Ok(Self { socket })
    }

    /// Reaches the keeper that serves `run`, and starts one when there is none.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn connect_or_start(run: &Path) -> Result<Self> {
        let first = match Self::connect(run) {
            Err(error) if error.kind() == Kind::Unreachable => start(run),
            other => return other,
        };
        // Somebody else may have started one at the same moment: then ours has ended, and that one is about to listen.
        for _ in 0..TRIES {
            match Self::connect(run) {
                Err(error) if error.kind() == Kind::Unreachable && is_busy(&first) => {
                    std::thread::sleep(PAUSE);
                }
                Err(error) => return Err(first.err().unwrap_or(error)),
                found => return found,
            }
        }
        Err(Error::new(Kind::TimedOut, "the keeper does not answer"))
    }

    pub(super) fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(Reply, Vec<OwnedFd>)> {
        wire::send(&self.socket, request, fds).doing(|| "ask the keeper")?;
        self.hear()
    }

    fn hear(&self) -> Result<(Reply, Vec<OwnedFd>)> {
        let mut buffer = vec![0; MOST];
        let (length, fds) = wire::receive(&self.socket, &mut buffer).doing(|| "hear from the keeper")?;
        if length == 0 {
            return Err(Error::new(Kind::Unreachable, "the keeper has ended"));
        }
        match wire::decode(&buffer[..length]) {
            Some(Reply::Refused(refusal)) => Err(explain(refusal)),
            Some(reply) => Ok((reply, fds)),
            None => Err(Error::new(Kind::Unsupported, "the keeper's answer cannot be read")
                .hint("it may be of another version: send it SIGHUP")),
        }
    }

    fn done(&self, request: &Request) -> Result<()> {
        self.ask(request, &[]).map(drop)
    }

    /// Waits for a container's end.
    ///
    /// # Errors
    /// `NotFound` when the keeper does not have it; `Unreachable` when the keeper ends first.
    pub fn wait(&self, id: &str) -> Result<Exit> {
        self.subscribe(id)?;
        self.told()
    }

    /// Asks to be told of a container's end, without waiting for it: the socket is readable then, for [`Client::told`].
    ///
    /// # Errors
    /// The keeper cannot be asked. That it does not have the container is told later.
    pub fn subscribe(&self, id: &str) -> Result<()> {
        wire::send(&self.socket, &Request::Wait(id.to_owned()), &[]).doing(|| "ask the keeper")
    }

    /// Waits for what was asked for by [`Client::subscribe`].
    ///
    /// # Errors
    /// As [`Client::wait`].
    pub fn told(&self) -> Result<Exit> {
        match self.hear()? {
            (Reply::Exited(exit), _) => Ok(exit),
            _ => Err(unexpected()),
        }
    }

    /// Is shown a container's output from now on; with `stdin` it gets what is sent, if its standard input is open.
    ///
    /// # Errors
    /// `NotFound` when the keeper does not have it.
    pub fn attach(self, id: &str, stdin: bool) -> Result<Attached> {
        match self.ask(&Request::Attach { id: id.to_owned(), stdin }, &[])? {
            (Reply::Attached(terms), _) => Ok(Attached { socket: self.socket, terms, buffer: vec![0; MOST] }),
            _ => Err(unexpected()),
        }
    }

    /// Closes a container's standard input.
    ///
    /// # Errors
    /// `NotFound` when the keeper does not have it; `WrongState` when it is closed.
    pub fn close_stdin(&self, id: &str) -> Result<()> {
        self.done(&Request::CloseStdin(id.to_owned()))
    }

    /// Has a container's log opened anew by its path: after it was moved away.
    ///
    /// # Errors
    /// `NotFound` when the keeper does not have it; the file cannot be opened, and the old one goes on being used.
    pub fn reopen(&self, id: &str) -> Result<()> {
        self.done(&Request::Reopen(id.to_owned()))
    }

    /// Sets the size of a container's terminal.
    ///
    /// # Errors
    /// `WrongState` when it has none.
    pub fn resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        self.done(&Request::Resize { id: id.to_owned(), rows, columns })
    }

    /// Is told of every container's end from now on.
    ///
    /// # Errors
    /// The keeper cannot be asked.
    pub fn watch(self) -> Result<Watch> {
        self.done(&Request::Watch)?;
        Ok(Watch(self))
    }

    /// The containers, with the pids of their first processes.
    ///
    /// # Errors
    /// The keeper cannot be asked.
    pub fn list(&self) -> Result<Vec<(String, i32)>> {
        match self.ask(&Request::List, &[])? {
            (Reply::Listed(list), _) => Ok(list),
            _ => Err(unexpected()),
        }
    }

    /// Has the keeper execute its program anew.
    ///
    /// # Errors
    /// The keeper cannot be asked.
    pub fn upgrade(&self) -> Result<()> {
        self.done(&Request::Upgrade)
    }
}

/// A connection over which the ends of containers are told.
#[derive(Debug)]
pub struct Watch(Client);

impl Watch {
    /// Waits for the next end: whose, and which.
    ///
    /// # Errors
    /// `Unreachable` when the keeper is gone, or finds this side too slow: ends may have been missed.
    pub fn next(&self) -> Result<(String, Exit)> {
        match self.0.hear()? {
            (Reply::Ended(id, exit), _) => Ok((id, exit)),
            _ => Err(unexpected()),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

pub(super) fn unexpected() -> Error {
    Error::new(Kind::Bug, "the keeper answered something else than was asked")
}

fn explain(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Unknown => Error::new(Kind::NotFound, "the keeper has no such container")
            .hint("it may have ended, or be one of a foreground command"),
        Refusal::Exists => Error::new(Kind::Exists, "the keeper has a container of that name"),
        Refusal::Closed => Error::new(Kind::WrongState, "the container's standard input is not open")
            .hint("launch it with --interactive or --tty"),
        Refusal::Failed(why) => Error::new(Kind::System, why),
    }
}

/// Whether the start failed because another was quicker; one that succeeded listens already.
fn is_busy(started: &Result<()>) -> bool {
    started.as_ref().is_err_and(|error| error.kind() == Kind::Busy)
}

/// Starts a keeper; it listens when this returns.
fn start(run: &Path) -> Result<()> {
    let program = keeper_program();
    let run = std::path::absolute(run).doing(|| format!("find {}", run.display()))?;
    let command = Command::new(&program).arg("--run").arg(run).stdin(Stdio::null()).output();
    let output = command.doing(|| format!("start {}", program.display())).map_err(|e| {
        e.hint(format!("coracle-keeper lies beside coracle, on the path, or where {PROGRAM} says"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind = if said.contains("already") { Kind::Busy } else { Kind::System };
    Err(Error::new(kind, format!("start {}", program.display())).because(Error::new(kind, said)))
}

/// The keeper's program: where `CORACLE_KEEPER` says, beside this one, or on the path.
pub fn keeper_program() -> PathBuf {
    let named = std::env::var_os(PROGRAM).filter(|name| !name.is_empty()).map(PathBuf::from);
    let beside = || own_path().map(|own| own.with_file_name("coracle-keeper")).filter(|path| path.exists());
    named.or_else(beside).unwrap_or_else(|| PathBuf::from("coracle-keeper"))
}

/// A launch by the keeper: it is the parent, the rest is done from here.
#[derive(Debug)]
pub struct Launching {
    client: Client,
    order: Order,
    console: Option<OwnedFd>,
}

impl Launching {
    /// Launches as `order` says; `console` is the end of a socket pair over which the container's terminal comes.
    pub fn new(client: Client, order: Order, console: Option<OwnedFd>) -> Self {
        let order = Order { has_console: console.is_some(), ..order };
        Self { client, order, console }
    }

    /// The launch was good: the container stays.
    ///
    /// # Errors
    /// The keeper cannot be asked. When it is gone, the container stays as well.
    pub fn keep(&self) -> Result<()> {
        match self.client.done(&Request::Keep) {
            Err(error) if error.kind() == Kind::Unreachable => Ok(()),
            other => other,
        }
    }

    /// The launch came to nothing: what there is of the container is forgotten once its process has ended.
    pub fn give_up(&self) {
        // When the keeper cannot be told, it sees that this end is closed.
        let _ = self.client.done(&Request::GiveUp);
    }
}

impl Parent for Launching {
    fn bear(&self, birth: Birth<'_>) -> Result<Spawned> {
        let bytes = postcard::to_allocvec(birth.plan)
            .map_err(|e| Error::new(Kind::Invalid, "the plan cannot be sent to the keeper").because(e))?;
        let plan = memory_file(&bytes).doing(|| "write the plan to memory")?;
        let order =
            Order { oom_file: birth.oom_file, has_cgroup: birth.cgroup.is_some(), ..self.order.clone() };
        let mut fds = vec![plan.as_fd(), birth.sync.as_fd()];
        fds.extend(birth.cgroup);
        fds.extend(self.console.as_ref().map(AsFd::as_fd));
        fds.extend(birth.fds.iter().map(AsFd::as_fd));
        self.client.ask(&Request::Launch(order), &fds).and_then(born)
    }

    fn adopt(&self, _before: &Spawned, pid: i32) -> Result<Spawned> {
        self.client.ask(&Request::Adopt(pid), &[]).and_then(born)
    }
}

fn born((reply, mut fds): (Reply, Vec<OwnedFd>)) -> Result<Spawned> {
    match (reply, fds.pop()) {
        (Reply::Born(pid), Some(pidfd)) => Ok(Spawned { pid, pidfd }),
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

/// A connection over which a container's output comes.
#[derive(Debug)]
pub struct Attached {
    socket: OwnedFd,
    terms: Terms,
    buffer: Vec<u8>,
}

impl Attached {
    /// On which terms.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Waits for the next frame; `None` when the keeper is gone.
    ///
    /// # Errors
    /// The socket is broken, or says something that is no frame.
    pub fn receive(&mut self) -> Result<Option<Frame<'_>>> {
        let (length, _) = wire::receive(&self.socket, &mut self.buffer).doing(|| "hear from the keeper")?;
        if length == 0 {
            return Ok(None);
        }
        wire::decode(&self.buffer[..length])
            .map(Some)
            .ok_or_else(|| Error::new(Kind::Unsupported, "the keeper sent something that is no frame"))
    }

    /// Sends input, its end, or a size. Waits while the container does not take it.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn send(&self, frame: &Frame<'_>) -> Result<()> {
        wire::send(&self.socket, frame, &[]).doing(|| "send to the keeper")
    }
}

impl AsFd for Attached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
