//! Spawning: a short-lived child, the launcher, reads the plan, joins namespaces and clones the container's first process as a
//! child of the keeper. So the keeper itself waits for nothing, and its memory does not grow.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Resource, Rlimit, Signal, WaitId, WaitIdOptions, getrlimit, pidfd_send_signal, setrlimit, waitid,
};
use serde::{Deserialize, Serialize};

use super::run_dir::Record;
use crate::error::{Doing, Error, Kind, Result};
use crate::keeper::{ENDED_PROCESS, protocol};
use crate::launch::apply::{OwnParent, SpawnRequest, Spawner};
use crate::launch::plan::Plan;
use crate::record::format::PLAN;
use crate::sys;
use crate::sys::process::Spawned;

/// The launcher, from the keeper's side.
#[derive(Debug)]
pub(in crate::keeper) struct Launcher {
    pub(in crate::keeper) socket: OwnedFd,
    /// None of a launcher that another keeper started.
    process: Option<OwnedFd>,
}

/// What the launcher reports, once. `Spawned` comes with a pidfd.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::keeper) enum LauncherReport {
    Spawned(i32),
    Failed(String),
}

/// What the launcher is started with.
#[derive(Debug)]
pub(in crate::keeper) struct Parts {
    /// The plan, in a file in memory.
    pub(in crate::keeper) plan: OwnedFd,
    /// The child's end of the socket pair with whoever asked for the launch.
    pub(in crate::keeper) sync: OwnedFd,
    /// A cgroup v2 directory.
    pub(in crate::keeper) cgroup: Option<OwnedFd>,
    /// What the plan has opened, in order.
    pub(in crate::keeper) opened: Vec<OwnedFd>,
    /// Its standard streams; where there is none, it has /dev/null.
    pub(in crate::keeper) streams: [Option<OwnedFd>; 3],
}

impl Launcher {
    /// Starts one. `tell` gets our end of its socket before the launcher runs, so that the standby has it, too.
    pub(in crate::keeper) fn start(parts: Parts, tell: impl FnOnce(&OwnedFd)) -> Result<Self> {
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .doing(|| "make a socket pair")?;
        // The container's process inherits the other end, so this socket does not report that the launcher was killed.
        rustix::io::ioctl_fionbio(&socket, true).doing(|| "make a socket pair")?;
        tell(&socket);
        let process = sys::process::spawn(0, None, || launch(parts, &theirs)).doing(|| "start a launcher")?;
        Ok(Self { socket, process: Some(process.pidfd) })
    }

    /// A launcher of a former keeper.
    pub(in crate::keeper) fn of_another(socket: OwnedFd) -> Self {
        Self { socket, process: None }
    }

    /// Kills it, if it has not ended.
    pub(in crate::keeper) fn kill(&self) {
        if let Some(process) = &self.process {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    /// Its report; `Failed` when it ended without one.
    pub(in crate::keeper) fn hear(&self) -> (LauncherReport, Option<OwnedFd>) {
        let mut buffer = [0; 4096];
        match protocol::receive(&self.socket, &mut buffer) {
            Ok((length, mut fds)) if length > 0 => match protocol::decode(&buffer[..length]) {
                Ok(report) => (report, fds.pop()),
                Err(error) => {
                    (LauncherReport::Failed(format!("read what the launcher reports: {error}")), None)
                }
            },
            _ => (
                LauncherReport::Failed("the launcher ended without a report: was it killed?".to_owned()),
                None,
            ),
        }
    }

    /// After the report: what has to be reaped.
    pub(in crate::keeper) fn into_pidfd(self) -> Option<OwnedFd> {
        self.process
    }

    /// Readable once it has ended.
    pub(in crate::keeper) fn pidfd(&self) -> Option<&OwnedFd> {
        self.process.as_ref()
    }
}

/// Reaps a child if it has ended; whether it has, and with status 0.
pub(in crate::keeper) fn reap_now(pidfd: &OwnedFd) -> bool {
    let ended = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    ended.ok().flatten().is_some_and(|status| status.exit_status() == Some(0))
}

/// Reaps a child that has ended.
pub(in crate::keeper) fn reap_pid(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }
}

/// A pidfd of a child of this process that nobody has reaped yet; none for any other process.
pub(in crate::keeper) fn child_of_ours(pid: i32) -> Option<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(pid)?;
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(pid), look).ok()?;
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
}

/// The launcher. The keeper has one thread, so a forked copy of it may allocate.
fn launch(parts: Parts, to: &OwnedFd) -> Infallible {
    // By reference: `close_all_but` closes descriptors below that their owners must not close again.
    let report = spawn(&parts, to);
    let (report, pidfd) = match &report {
        Ok(spawned) => (LauncherReport::Spawned(spawned.pid), Some(spawned.pidfd.as_fd())),
        Err(error) => (LauncherReport::Failed(error.chain()), None),
    };
    let _ = protocol::send(to, &report, pidfd.as_slice());
    sys::process::exit_now(0)
}

fn spawn(parts: &Parts, to: &OwnedFd) -> Result<Spawned> {
    place_streams(&parts.streams)?;
    // The launcher and the container's process must not hold descriptors of other containers.
    let own = [&parts.plan, &parts.sync, to].into_iter().chain(&parts.cgroup).chain(&parts.opened);
    let mut keep: Vec<i32> = own.map(AsRawFd::as_raw_fd).collect();
    keep.sort_unstable();
    // Without close_range(2), before 5.9, they stay open until execve.
    let _ = sys::process::close_all_but(3, &keep);
    let plan = read_plan(&parts.plan)?;
    if plan.opens.0.len() != parts.opened.len() {
        return Err(Error::new(Kind::Invalid, "what the plan has opened did not come along"));
    }
    Limits::restore();
    let cgroup = parts.cgroup.as_ref().map(AsFd::as_fd);
    let sync = parts.sync.as_fd();
    OwnParent.spawn(SpawnRequest { plan: &plan, fds: &parts.opened, sync, cgroup, oom_file: None })
}

fn place_streams(streams: &[Option<OwnedFd>; 3]) -> Result<()> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "open /dev/null")?;
    (0..).zip(streams).try_for_each(|(number, stream)| {
        let stream = stream.as_ref().unwrap_or(&null);
        sys::process::dup_onto(stream.as_fd(), number).doing(|| "place the standard streams")
    })
}

fn read_plan(file: &OwnedFd) -> Result<Plan> {
    let size = rustix::fs::fstat(file).doing(|| "read the plan")?.st_size;
    let mut bytes = vec![0; usize::try_from(size).unwrap_or_default()];
    let length = rustix::io::pread(file, &mut bytes, 0).doing(|| "read the plan")?;
    PLAN.decode(&bytes[..length]).map_err(|unreadable| unreadable.while_doing("read the plan"))
}

/// Limits that the keeper raises for itself, and that its children must not inherit.
#[derive(Debug, Clone, Copy)]
pub(in crate::keeper) struct Limits;

static INHERITED: std::sync::OnceLock<(Rlimit, String)> = std::sync::OnceLock::new();

const SCORE: &str = "/proc/self/oom_score_adj";

impl Limits {
    /// Raises RLIMIT_NOFILE to its maximum and lowers oom_score_adj, as far as that is permitted. After a re-execution both
    /// are raised already, so `before` says what they were at first.
    pub(in crate::keeper) fn raise(before: Option<(u64, String)>) {
        let limit = getrlimit(Resource::Nofile);
        let score = || std::fs::read_to_string(SCORE).unwrap_or_default().trim().to_owned();
        let (current, score) = match before {
            Some((limit, score)) => (Some(limit), score),
            None => (limit.current, score()),
        };
        let _ = INHERITED.set((Rlimit { current, maximum: limit.maximum }, score));
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        let _ = std::fs::write(SCORE, "-999");
    }

    /// What they were at first, for the next image of this program.
    pub(in crate::keeper) fn before() -> (u64, String) {
        INHERITED.get().map_or((1024, "0".to_owned()), |(limit, score)| {
            (limit.current.unwrap_or(u64::MAX), score.clone())
        })
    }

    /// In a child: restores RLIMIT_NOFILE and oom_score_adj to their inherited values.
    pub(in crate::keeper) fn restore() {
        if let Some((limit, score)) = INHERITED.get() {
            let _ = setrlimit(Resource::Nofile, *limit);
            let _ = std::fs::write(SCORE, score);
        }
    }
}

/// Starts the exit command of a container, which finds the container's first process in its environment, and returns the
/// command's pidfd.
pub(in crate::keeper) fn run_command(record: &Record) -> Option<OwnedFd> {
    let (program, args) = record.order.exit_command.split_first()?;
    let process = format!("{} {}", record.pid, record.start_time);
    run_program(program, program, args, &[(ENDED_PROCESS, &process)])
}

/// Starts a program under a name (`argv[0]`), and returns its pidfd.
pub(in crate::keeper) fn run_program(
    program: &str,
    name: &str,
    args: &[String],
    variables: &[(&str, &str)],
) -> Option<OwnedFd> {
    let child = || -> Infallible {
        Limits::restore();
        // This is the forked child already: `exec` returns only when it fails.
        let mut command = std::process::Command::new(program);
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        for variable in crate::keeper::notify::VARIABLES {
            command.env_remove(variable);
        }
        command.envs(variables.iter().copied());
        let error = std::os::unix::process::CommandExt::exec(command.args(args));
        let _ = std::io::Write::write_all(
            &mut std::io::stderr(),
            format!("execute {program}: {error}\n").as_bytes(),
        );
        sys::process::exit_now(127)
    };
    sys::process::spawn(0, None, child).ok().map(|spawned| spawned.pidfd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::format::KEEPER_PROTOCOL;
    use crate::record::golden;

    #[test]
    fn golden_messages() {
        let report = |report: &LauncherReport| KEEPER_PROTOCOL.encode(report).unwrap();
        let samples = [
            ("spawned", report(&LauncherReport::Spawned(7))),
            ("failed", report(&LauncherReport::Failed("why".to_owned()))),
        ];
        golden::check("src/keeper/golden", "launcher", KEEPER_PROTOCOL, &samples);
    }
}
