//! The client's side: reaching the keeper, or starting it, and asking it.

mod attached;
mod spawner;
mod start;

use std::cmp::Ordering;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

pub use super::program::keeper_program;
pub use attached::Attached;
pub use spawner::KeeperSpawner;
pub(in crate::keeper) use start::BUSY;

use super::LOCK;
use super::protocol::{self, Greeting, MOST, Refusal, Request, Response, Upgraded, address};
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::record::Exit;
use crate::record::format::{KEEPER_PROTOCOL, Unreadable};
use start::{is_busy, start};

/// How often a keeper that was just started is tried, and how long is waited in between.
const TRIES: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);

/// How long an answer may take that the keeper gives without waiting for anybody.
const ANSWER: Duration = Duration::from_secs(30);

/// The same of one that waits for a launcher, or for a process that is to end or to execute its program: longer than the
/// keeper lets these take.
const SLOW_ANSWER: Duration = Duration::from_secs(60);

/// How often another keeper is asked, when the one that was asked is killed.
const KEEPERS: u32 = 20;

/// A connection to the keeper.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    run: PathBuf,
}

/// The pid of the keeper that serves `run`; none when there is none. It is the process that holds the lock: the socket may
/// have been made by a predecessor.
pub fn keeper_pid(run: &Path) -> Option<i32> {
    let lock = std::fs::File::open(run.join(LOCK)).ok()?;
    let mut holder = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&lock, nix::fcntl::FcntlArg::F_GETLK(&mut holder)).ok()?;
    (holder.l_type != libc::F_UNLCK as libc::c_short && holder.l_pid > 0).then_some(holder.l_pid)
}

impl Client {
    /// Reaches the keeper that serves `run`, and makes sure that it speaks this version of its protocol.
    ///
    /// # Errors
    /// `Unreachable` when there is none; `Denied` to those who may not; `Unsupported` when it speaks another version.
    pub fn connect(run: &Path) -> Result<Self> {
        Self::connect_within(run, ANSWER)
    }

    /// As [`Client::connect`], for a caller that wants to know soon whether the keeper works: it waits no longer than
    /// `limit` for the connection, and no longer than that for the greeting.
    ///
    /// # Errors
    /// As [`Client::connect`]; `TimedOut` when the keeper does not answer within the limit.
    pub fn connect_within(run: &Path, limit: Duration) -> Result<Self> {
        let (client, version) = Self::greet(run, limit)?;
        match version == KEEPER_PROTOCOL.version {
            true => Ok(client),
            false => Err(other_version(run, version)),
        }
    }

    /// As [`Client::connect`]; a keeper that speaks an older version executes its program anew first, which costs no
    /// container anything.
    ///
    /// # Errors
    /// As [`Client::connect`]: then the keeper's program is of that version, too, or it cannot take over.
    pub(in crate::keeper) fn connect_upgraded(run: &Path) -> Result<Self> {
        let (client, version) = Self::greet(run, ANSWER)?;
        match version.cmp(&KEEPER_PROTOCOL.version) {
            Ordering::Equal => return Ok(client),
            Ordering::Greater => return Err(other_version(run, version)),
            Ordering::Less => {}
        }
        client.ask_for_upgrade(version).map_err(|e| e.doing(other_version(run, version).to_string()))?;
        drop(client);
        for _ in 1..TRIES {
            match Self::connect(run) {
                Err(error) if matches!(error.kind(), Kind::Unsupported | Kind::Unreachable) => {
                    std::thread::sleep(PAUSE);
                }
                other => return other,
            }
        }
        Self::connect(run).map_err(|error| match error.kind() {
            Kind::Unsupported => {
                error.hint("its program was not replaced: install the same release of coracle-keeper")
            }
            _ => error,
        })
    }

    /// Has the keeper that serves `run` execute its program anew, whichever version it speaks.
    ///
    /// # Errors
    /// `Unreachable` when there is none; `Unsupported` when its program could not take over, and nothing has changed.
    pub fn upgrade(run: &Path) -> Result<()> {
        let (client, version) = Self::greet(run, ANSWER)?;
        client.ask_for_upgrade(version)
    }

    fn ask_for_upgrade(&self, version: u16) -> Result<()> {
        let greeting = if version == 1 { Greeting::FirstUpgrade } else { Greeting::Upgrade };
        let answer = self.exchange(&greeting.bytes(), SLOW_ANSWER)?;
        match protocol::read_upgraded(&answer) {
            Some(Upgraded::Yes) => Ok(()),
            Some(Upgraded::No(why)) => Err(Error::new(Kind::Unsupported, "upgrade the keeper")
                .because(Error::new(Kind::Unsupported, why))
                .hint("its containers go on as before: install a coracle-keeper that can take over")),
            None => Err(Error::new(Kind::Unsupported, "upgrade the keeper: its answer cannot be read")),
        }
    }

    /// A connection to the keeper that serves `run`, and the version that it speaks.
    fn greet(run: &Path, limit: Duration) -> Result<(Self, u16)> {
        let client = Self::dial(run, limit)?;
        let answer = client.exchange(&Greeting::Ask.bytes(), limit)?;
        Ok((client, protocol::version(&answer)))
    }

    /// Sends these bytes, and waits for what comes back.
    fn exchange(&self, bytes: &[u8], limit: Duration) -> Result<Vec<u8>> {
        sent(protocol::send_bytes(&self.socket, bytes, &[]))?;
        self.await_answer(limit)?;
        let mut buffer = vec![0; 1024];
        let (length, _) = protocol::receive(&self.socket, &mut buffer).doing(|| "hear from the keeper")?;
        buffer.truncate(length);
        if buffer.is_empty() { Err(ended()) } else { Ok(buffer) }
    }

    fn await_answer(&self, limit: Duration) -> Result<()> {
        let limit = Timespec { tv_sec: limit.as_secs().cast_signed(), tv_nsec: limit.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&limit)) {
            Ok(0) => Err(silent()),
            _ => Ok(()),
        }
    }

    fn dial(run: &Path, limit: Duration) -> Result<Self> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .doing(|| "make a socket")?;
        let doing = || format!("reach the keeper of {}", run.display());
        let unreachable = |error: Error| match error.kind() {
            Kind::Denied => error,
            _ => Error::new(Kind::Unreachable, doing()).because(error).hint("does coracle-keeper run?"),
        };
        let (address, _directory) = address(run).map_err(unreachable)?;
        // connect(2) waits for a keeper that accepts nothing once its queue is full, but no longer than SO_SNDTIMEO.
        set_socket_timeout(&socket, Timeout::Send, Some(limit)).doing(|| "set up a socket")?;
        match connect(&socket, &address) {
            Err(Errno::AGAIN) => return Err(silent()),
            connected => connected.doing(doing).map_err(unreachable)?,
        }
        set_socket_timeout(&socket, Timeout::Send, None).doing(|| "set up a socket")?;
        Ok(Self { socket, run: run.to_owned() })
    }

    /// Reaches the keeper that serves `run`, and starts one when there is none. One that speaks an older version of its
    /// protocol executes its program anew first.
    ///
    /// # Errors
    /// It cannot be started; `Unsupported` when it speaks another version all the same.
    pub fn connect_or_start(run: &Path) -> Result<Self> {
        let first = match Self::connect_upgraded(run) {
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

    /// Reaches the keeper that serves `run` for a container; when there is none although it had the container, because it was
    /// killed with its standby, starts another.
    ///
    /// # Errors
    /// As [`Client::connect`] and [`Client::connect_or_start`].
    pub fn connect_for(run: &Path, id: &ContainerId) -> Result<Self> {
        match Self::connect(run) {
            Err(error)
                if error.kind() == Kind::Unreachable
                    && protocol::containers(run).join(id.as_str()).exists() =>
            {
                Self::connect_or_start(run)
            }
            other => other,
        }
    }

    /// Asks the keeper that serves `run` for something that may be asked for twice: when it is killed meanwhile, the next one
    /// is asked. One is started when there is none.
    ///
    /// # Errors
    /// What the keeper answers; it cannot be started.
    pub fn ask_any<T>(run: &Path, ask: impl Fn(&Self) -> Result<T>) -> Result<T> {
        for _ in 1..KEEPERS {
            match Self::connect_or_start(run).and_then(|keeper| ask(&keeper)) {
                Err(error) if error.kind() == Kind::Unreachable => std::thread::sleep(PAUSE),
                other => return other,
            }
        }
        ask(&Self::connect_or_start(run)?)
    }

    pub(in crate::keeper) fn ask(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Response, Vec<OwnedFd>)> {
        self.ask_within(request, fds, ANSWER)
    }

    /// As [`Client::ask`], for an answer that the keeper may have to wait for.
    fn ask_within(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<(Response, Vec<OwnedFd>)> {
        sent(protocol::send(&self.socket, request, fds))?;
        self.await_answer(limit)?;
        self.hear()
    }

    fn hear(&self) -> Result<(Response, Vec<OwnedFd>)> {
        let mut buffer = vec![0; MOST];
        let (length, fds) = protocol::receive(&self.socket, &mut buffer).doing(|| "hear from the keeper")?;
        if length == 0 {
            return Err(ended());
        }
        match protocol::decode(&buffer[..length]) {
            Ok(Response::Refused(refusal)) => Err(explain(refusal)),
            Ok(response) => Ok((response, fds)),
            // It was another one when it was greeted: it has executed its program since.
            Err(Unreadable::Version { found, .. }) => Err(other_version(&self.run, found)),
            Err(error) => Err(error.while_doing("read the keeper's answer")),
        }
    }

    /// Waits until it is decided what became of the launch of a container whose client is gone: whether its program was run
    /// and the keeper has it.
    ///
    /// # Errors
    /// The keeper cannot be asked; `TimedOut` when it does not come to a decision.
    pub fn settle(&self, id: &str) -> Result<bool> {
        match self.ask_within(&Request::Settle(id.to_owned()), &[], SLOW_ANSWER) {
            Ok((Response::Done, _)) => Ok(true),
            Ok(_) => Err(unexpected()),
            Err(error) if error.kind() == Kind::NotFound => Ok(false),
            Err(error) => Err(error),
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
        self.receive_exit()
    }

    /// Asks for a report of a container's end, without waiting for it: the socket is readable then, for [`Client::receive_exit`].
    ///
    /// # Errors
    /// The keeper cannot be asked. That it does not have the container is reported later.
    pub fn subscribe(&self, id: &str) -> Result<()> {
        protocol::send(&self.socket, &Request::Wait(id.to_owned()), &[]).doing(|| "ask the keeper")
    }

    /// Waits for what was asked for by [`Client::subscribe`].
    ///
    /// # Errors
    /// As [`Client::wait`].
    pub fn receive_exit(&self) -> Result<Exit> {
        match self.hear()? {
            (Response::Exited(exit), _) => Ok(exit),
            _ => Err(unexpected()),
        }
    }

    /// Is shown a container's output from now on; with `stdin` it gets what is sent, if its standard input is open.
    ///
    /// # Errors
    /// `NotFound` when the keeper does not have it.
    pub fn attach(self, id: &str, stdin: bool) -> Result<Attached> {
        match self.ask(&Request::Attach { id: id.to_owned(), stdin }, &[])? {
            (Response::Attached(terms), _) => Ok(Attached::new(self.socket, terms)),
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

    /// Subscribes to the ends of all containers.
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
            (Response::Listed(list), _) => Ok(list),
            _ => Err(unexpected()),
        }
    }
}

/// A connection over which the ends of containers are reported.
#[derive(Debug)]
pub struct Watch(Client);

impl Watch {
    /// Waits for the next end: whose, and which.
    ///
    /// # Errors
    /// `Unreachable` when the keeper is gone, or finds this side too slow: ends may have been missed.
    pub fn next(&self) -> Result<(String, Exit)> {
        match self.0.hear()? {
            (Response::Ended(id, exit), _) => Ok((id, exit)),
            _ => Err(unexpected()),
        }
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The keeper speaks another version, so nothing was asked of it.
fn other_version(run: &Path, found: u16) -> Error {
    let ours = KEEPER_PROTOCOL.version;
    let run = run.display();
    let error = Error::new(
        Kind::Unsupported,
        format!("the keeper of {run} speaks version {found} of its protocol, this coracle version {ours}"),
    );
    error.hint(match found < ours {
        true => format!(
            "upgrade the keeper first, which its containers survive: coracle-keeper --upgrade --run {run}"
        ),
        false => {
            "the keeper is of a newer release, and its containers go on: install that release of coracle"
                .to_owned()
        }
    })
}

fn sent(result: Result<(), Errno>) -> Result<()> {
    match result {
        Err(Errno::PIPE | Errno::CONNRESET) => Err(ended()),
        other => other.doing(|| "ask the keeper"),
    }
}

fn silent() -> Error {
    Error::new(Kind::TimedOut, "the keeper does not answer").hint("is coracle-keeper stopped? see ps(1)")
}

fn ended() -> Error {
    Error::new(Kind::Unreachable, "the keeper has ended")
}

pub(in crate::keeper) fn unexpected() -> Error {
    Error::new(Kind::Bug, "the keeper answered something else than was asked")
}

fn explain(refusal: Refusal) -> Error {
    match refusal {
        Refusal::Unknown => Error::new(Kind::NotFound, "the keeper has no such container")
            .command_hint("it may have ended, or be one of a foreground command"),
        Refusal::Exists => Error::new(Kind::Exists, "the keeper has a container of that name"),
        Refusal::Closed => Error::new(Kind::WrongState, "the container's standard input is not open")
            .command_hint("launch it with --interactive or --tty"),
        Refusal::Failed(why) => Error::new(Kind::System, why),
    }
}
