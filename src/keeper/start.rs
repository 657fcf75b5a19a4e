//! From a command line to a keeper that serves.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::{Pid, PidfdFlags, pidfd_open, setsid, umask};

use super::client::Client;
use super::clients::Clients;
use super::container::{Container, complain};
use super::fdstore::{self, Left};
use super::machine::State;
use super::poll::{End, Keeper, Poll};
use super::record::{Ends, Record, RunDir};
use super::reexec;
use super::replace::{begin_to_serve, is_served};
use super::spawn::{Launcher, Limits};
use super::standby::{Descriptors, Snapshot};
use super::stream::{Desk, Source};
use super::timer::Timer;
use super::upgrade::{Upgrade, can_resume};
use super::wire::Order;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;
use crate::sys;

/// What `--help` prints.
pub const USAGE: &str = "\
The one parent of a node's containers: holds their streams, writes their logs, says how they ended.

Usage: coracle-keeper [--run DIR] [--foreground] [--replace]
       coracle-keeper [--run DIR] --upgrade

  --run DIR      Directory for the socket and what is known of the containers [default: /run/coracle]
  --foreground   Stay in this session
  --replace      When a keeper serves DIR already, take over all it has; it ends
  --upgrade      Have the keeper that serves DIR execute its program anew, as by SIGHUP; where that program could not
                 take over, say so and change nothing
  --can-resume V Succeed if this program takes over from a keeper that writes these versions of its state: asked by the
                 keeper before it executes the program
  --version      Print the version

SIGHUP: execute the program anew, as after an upgrade; no container notices.
SIGTERM: end; the containers stay, and the next keeper finds them. What would be lost, terminals and open standard
inputs, is left with systemd where its unit has a store of file descriptors.
";

/// The directory unless another is named.
pub const RUN: &str = "/run/coracle";

/// What the command line says.
#[derive(Debug, PartialEq, Eq)]
enum Ask {
    Help,
    Version,
    Upgrade(PathBuf),
    Resumes(String),
    Serve { run: PathBuf, how: How },
}

/// How to begin.
#[derive(Debug, Default, PartialEq, Eq)]
struct How {
    foreground: bool,
    replace: bool,
    /// The file that an earlier image of this process has written.
    resume: Option<i32>,
}

/// The keeper's name as a program, and the first argument (`argv[0]`) that makes `coracle` act as it.
pub(super) const NAME: &str = "coracle-keeper";

/// Whether this program was started under the keeper's name: so that `coracle` alone, without `coracle-keeper` beside it,
/// is the keeper as well.
pub fn is_called_as_keeper() -> bool {
    let name = std::env::args_os().next().map(PathBuf::from);
    name.is_some_and(|path| path.file_name() == Some(NAME.as_ref()))
}

/// The program.
pub fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == super::POD_INIT) {
        return super::pod_init::run();
    }
    let ended = parse(std::env::args_os().skip(1)).and_then(|ask| match ask {
        Ask::Help => print(USAGE),
        Ask::Version => print(concat!("coracle-keeper ", env!("CARGO_PKG_VERSION"), "\n")),
        Ask::Upgrade(run) => Client::upgrade(&run),
        Ask::Resumes(versions) => can_resume(&versions),
        Ask::Serve { run, how } => start(&run, &how),
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let hint = error.first_hint().map_or_else(String::new, |hint| format!(" (hint: {hint})"));
            complain(&format!("error: {}{hint}", error.chain()));
            ExitCode::FAILURE
        }
    }
}

fn print(text: &str) -> Result<()> {
    use std::io::Write;
    std::io::stdout().write_all(text.as_bytes()).doing(|| "write to standard output")
}

fn parse(args: impl Iterator<Item = OsString>) -> Result<Ask> {
    let mut args = args;
    let (mut run, mut upgrade, mut how) = (PathBuf::from(RUN), false, How::default());
    while let Some(arg) = args.next() {
        let text = arg.to_string_lossy().into_owned();
        let mut value =
            || args.next().ok_or_else(|| Error::invalid(format!("{text} needs a value")).hint("see --help"));
        match text.as_str() {
            "--help" | "-h" => return Ok(Ask::Help),
            "--version" | "-V" => return Ok(Ask::Version),
            "--run" => run = value()?.into(),
            "--can-resume" => return Ok(Ask::Resumes(value()?.to_string_lossy().into_owned())),
            "--foreground" => how.foreground = true,
            "--replace" => how.replace = true,
            "--upgrade" => upgrade = true,
            "--resume" => how.resume = value()?.to_str().and_then(|n| n.parse().ok()),
            _ => return Err(Error::invalid(format!("unknown argument {text:?}")).hint("see --help")),
        }
    }
    Ok(if upgrade { Ask::Upgrade(run) } else { Ask::Serve { run, how } })
}

fn start(run: &Path, how: &How) -> Result<()> {
    // Containers' first processes are copies of this one until they execute something else.
    crate::launch::self_protect::ensure()?;
    umask(Mode::from_raw_mode(0o022));
    sys::process::reset_ignored_signals();
    if let Some(file) = how.resume {
        match reexec::resume(run, file) {
            Ok(mut keeper) => {
                keeper.renew_standby();
                let end = keeper.run();
                keeper.end(end);
                return Ok(());
            }
            Err(error) => complain(&format!("resume: {}", error.chain())),
        }
    }
    let run_dir = RunDir::new(run);
    make_directories(&run_dir)?;
    run_dir.check_versions()?;
    Limits::raise(None);
    // Numbers of an earlier image are nothing that systemd has handed over.
    let left = if how.resume.is_none() { fdstore::find(&run_dir) } else { Left::default() };
    let snapshot = match begin(&run_dir, left) {
        Err(error) if error.kind() == Kind::Busy && how.replace => {
            Client::connect_upgraded(run)?.take_over()?
        }
        begun => begun?,
    };
    if how.foreground {
        serve(run_dir, snapshot);
        return Ok(());
    }
    daemonise(run_dir, snapshot)
}

/// Serves in a process of its own, without this session.
fn daemonise(run_dir: RunDir, snapshot: Snapshot) -> Result<()> {
    let null = open("/dev/null", OFlags::RDWR)?;
    let complaints = private::append(&run_dir.complaints(), private::FILE)
        .map(OwnedFd::from)
        .doing(|| format!("open {}", run_dir.complaints().display()))?;
    let daemon = || {
        let _ = setsid();
        super::cgroup::enter();
        let _ = rustix::process::chdir("/");
        for (number, fd) in [(0, &null), (1, &complaints), (2, &complaints)] {
            let _ = sys::process::dup_onto(fd.as_fd(), number);
        }
        serve(run_dir, snapshot);
        sys::process::exit_now(0)
    };
    sys::process::spawn(0, None, daemon).map(drop).doing(|| "leave this session")
}

fn open(path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd> {
    let path = path.as_ref();
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
        .doing(|| format!("open {}", path.display()))
}

fn make_directories(run_dir: &RunDir) -> Result<()> {
    private::own_run_dir(run_dir.run())?;
    private::own_dir(&run_dir.containers())
}

/// What there is to begin with: what was left with systemd, and otherwise the lock and the socket.
fn begin(run_dir: &RunDir, left: Left) -> Result<Snapshot> {
    let lock = left.lock.map_or_else(|| take_lock(run_dir), Ok)?;
    // The standby of one that was killed has the lock of the store, too.
    if is_served(&lock) {
        return Err(busy(run_dir));
    }
    // Of what use is a socket that nobody finds?
    let found = left.listener.filter(|_| run_dir.socket().exists());
    let listener = found.map_or_else(|| listen_at(run_dir), Ok)?;
    Ok(Snapshot { listener, lock, held: left.held, predecessor: None })
}

fn busy(run_dir: &RunDir) -> Error {
    Error::new(Kind::Busy, format!("a keeper serves {} already", run_dir.run().display()))
}

/// Held as long as the keeper or its standby lives, who share it.
fn take_lock(run_dir: &RunDir) -> Result<OwnedFd> {
    let lock = private::open_or_create(&run_dir.lock(), private::FILE);
    let lock = lock.map(OwnedFd::from).doing(|| format!("open {}", run_dir.lock().display()))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::AGAIN) => Err(busy(run_dir)),
        other => other.map(|()| lock).doing(|| format!("lock {}", run_dir.lock().display())),
    }
}

/// Listens at the socket's path; with the lock held, what is there is nobody's any more.
fn listen_at(run_dir: &RunDir) -> Result<OwnedFd> {
    let doing = || format!("listen on {}", run_dir.socket().display());
    let _ = std::fs::remove_file(run_dir.socket());
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).doing(doing)?;
    let before = umask(Mode::from_raw_mode(0o177));
    let bound = address(run_dir.run()).and_then(|(address, _directory)| bind(&socket, &address).doing(doing));
    umask(before);
    bound?;
    listen(&socket, 128).doing(doing)?;
    Ok(socket)
}

/// The socket's address below a directory whose path may be longer than an address; valid while the descriptor lives.
pub(super) fn address(run: &Path) -> Result<(SocketAddrUnix, OwnedFd)> {
    use std::os::fd::AsRawFd;
    let directory = open(run, OFlags::PATH | OFlags::DIRECTORY)?;
    let path = format!("/proc/self/fd/{}/keeper.sock", directory.as_raw_fd());
    SocketAddrUnix::new(path.as_str()).map(|address| (address, directory)).doing(|| "name the socket")
}

/// Serves with what is known from before: records on disk, and what an earlier keeper left.
pub(super) fn serve(run_dir: RunDir, snapshot: Snapshot) {
    if let Err(errno) = begin_to_serve(&snapshot.lock) {
        return complain(&format!("serve: another keeper does: {errno}"));
    }
    match build(run_dir, snapshot.listener, snapshot.lock) {
        Ok(mut keeper) => {
            keeper.adopt(snapshot.held);
            keeper.watch_all();
            keeper.start_standby();
            drop(snapshot.predecessor);
            let end = keeper.run();
            keeper.end(end);
        }
        Err(error) => complain(&format!("serve: {}", error.chain())),
    }
}

fn build(run_dir: RunDir, listener: OwnedFd, lock: OwnedFd) -> Result<Keeper> {
    Ok(Keeper {
        poll: Poll::new().doing(|| "make an epoll instance")?,
        run_dir,
        listener,
        lock,
        signals: sys::signal::capture_all().doing(|| "wait for signals")?,
        standby: None,
        containers: BTreeMap::new(),
        clients: Clients::default(),
        children: BTreeMap::new(),
        desk: Desk::new().doing(|| "make a pipe")?,
        inbox: vec![0; super::wire::MOST],
        next: 0,
        unfinished: Vec::new(),
        upgrade: Upgrade::None,
        successor: None,
        end: None,
        grace: None,
    })
}

impl Keeper {
    /// Takes the containers of an earlier keeper for its own. It is not their parent, but has them by pidfd.
    fn adopt(&mut self, mut left: BTreeMap<String, Descriptors>) {
        for record in self.run_dir.load() {
            let held = left.remove(&record.order.id).unwrap_or_default();
            let key = self.new_key();
            let container = self.adopted(record, held);
            let has_ended = container.process.is_none();
            self.containers.insert(key, container);
            if has_ended {
                self.process_ended(key);
            }
        }
        for (id, held) in left {
            let Some(socket) = held.launcher else { continue };
            let record = Record { order: Order { id, ..Order::default() }, ..Record::default() };
            let mut container = Container::new(record, State::Void, Ends::default());
            container.launcher = Some(Launcher::of_another(socket));
            let key = self.new_key();
            self.containers.insert(key, container);
        }
    }

    fn adopted(&self, record: Record, held: Descriptors) -> Container {
        let process = held.process.or_else(|| {
            let pidfd = pidfd_open(Pid::from_raw(record.pid)?, PidfdFlags::empty()).ok()?;
            // After the pidfd is open: the pid cannot become another's between the two.
            record.is_current().then_some(pidfd)
        });
        let state = if record.kept { State::Kept } else { State::Unattended };
        if record.order.has_console {
            let mut container = Container::new(record, state, Ends::default());
            container.timer = Timer::of_adopted(state);
            container.stdout = held.stdout.map(|master| Source::terminal(master, Vec::new()));
            container.process = process;
            return container;
        }
        let opened = self.run_dir.ends(&record.order).unwrap_or_default();
        let ends = Ends {
            stdin: held.stdin.or(opened.stdin),
            stdout: held.stdout.or(opened.stdout),
            stderr: held.stderr.or(opened.stderr),
        };
        let mut container = Container::new(record, state, ends);
        container.timer = Timer::of_adopted(state);
        container.process = process;
        container
    }

    /// Ends: the containers stay, and their records.
    pub(super) fn end(&mut self, why: End) {
        self.settle_logs();
        let has_next = match why {
            End::Signalled => fdstore::leave(self),
            End::Replaced => true,
        };
        self.await_end_of_standby();
        if !has_next {
            let _ = std::fs::remove_file(self.run_dir.socket());
        }
        super::cgroup::leave();
    }

    fn await_end_of_standby(&mut self) {
        if let Some(standby) = &self.standby {
            let pidfd = standby.pidfd.try_clone();
            self.end_standby();
            // It ends at once, or is stopped: then it is not worth waiting for.
            let patience = Timespec { tv_sec: 1, tv_nsec: 0 };
            if let Ok(pidfd) = pidfd {
                let _ = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&patience));
                super::spawn::reap_now(&pidfd);
            }
        }
    }
}
