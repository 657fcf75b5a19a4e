//! From a command line to a keeper that serves.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with};
use rustix::process::{setsid, umask};

use super::client::{BUSY, Client};
use super::event_loop::{Limits, RunDir, can_resume};
use super::own_log::warn;
use super::protocol::address;
use super::takeover::{self, Snapshot, go_on, is_served, serve};
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
            warn(&format!("error: {}{hint}", error.chain()));
            match error.kind() {
                Kind::Busy => ExitCode::from(BUSY),
                _ => ExitCode::FAILURE,
            }
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
        match takeover::resume(run, file) {
            Ok(keeper) => {
                go_on(keeper);
                return Ok(());
            }
            Err(error) => warn(&format!("resume: {}", error.chain())),
        }
    }
    let run_dir = RunDir::new(run);
    make_directories(&run_dir)?;
    run_dir.check_versions()?;
    Limits::raise(None);
    // Numbers of an earlier image are nothing that systemd has handed over.
    let left = if how.resume.is_none() { takeover::find(&run_dir) } else { Snapshot::default() };
    let (snapshot, predecessor) = match begin(&run_dir, left) {
        Err(error) if error.kind() == Kind::Busy && how.replace => {
            let (snapshot, predecessor) = takeover::take_over(Client::connect_upgraded(run)?)?;
            (snapshot, Some(predecessor))
        }
        begun => (begun?, None),
    };
    if how.foreground {
        serve(run_dir, snapshot, predecessor);
        return Ok(());
    }
    daemonise(run_dir, snapshot, predecessor)
}

/// Serves in a process of its own, without this session.
fn daemonise(run_dir: RunDir, snapshot: Snapshot, predecessor: Option<Client>) -> Result<()> {
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
        serve(run_dir, snapshot, predecessor);
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
fn begin(run_dir: &RunDir, left: Snapshot) -> Result<Snapshot> {
    let lock = left.lock.map_or_else(|| take_lock(run_dir), Ok)?;
    // The standby of one that was killed has the lock of the store, too.
    if is_served(&lock) {
        return Err(busy(run_dir));
    }
    // A socket whose path is gone reaches no client.
    let found = left.listener.filter(|_| run_dir.socket().exists());
    let listener = found.map_or_else(|| listen_at(run_dir), Ok)?;
    Ok(Snapshot { listener: Some(listener), lock: Some(lock), containers: left.containers })
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
