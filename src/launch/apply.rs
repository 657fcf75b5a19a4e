//! Applying a plan, the parent's side: clone, id maps, cgroups, hooks, and reading the child's reports.

use std::io::ErrorKind;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions, pidfd_getfd, pidfd_open,
    pidfd_send_signal, waitid,
};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::deadline::Deadline;
use super::opens::Open;
use super::plan::Plan;
use super::prepare::{self, Inputs};
use super::wire::{self, Failure, Permission, ReceiveError, Report};
use super::{explain, init, listener};
use crate::cgroup::Group;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::proc_stat::ProcStat;
use crate::linux::user_namespace;
use crate::sys;
use crate::sys::process::Spawned;

/// How long to wait for a killed process to end.
const DEATH_LIMIT: Duration = Duration::from_secs(5);

/// A process that is being set up, and the socket it reports on. Dropping it before [`NewProcess::let_go`] kills the
/// process.
#[derive(Debug)]
pub struct NewProcess<'p> {
    plan: &'p Plan,
    parent: &'p dyn Spawner,
    process: Spawned,
    sync: OwnedFd,
    fds: Vec<OwnedFd>,
    deadline: Deadline,
    let_go: bool,
    oom_score_adj_may_stay: bool,
}

/// Everything a [`Spawner`] needs to clone a new process.
#[derive(Debug)]
pub struct SpawnRequest<'a> {
    /// The plan whose steps the process executes.
    pub plan: &'a Plan,
    /// The descriptors of the plan's slots, in order.
    pub fds: &'a [OwnedFd],
    /// The child's end of the socket pair.
    pub sync: BorrowedFd<'a>,
    /// The cgroup v2 directory the process is cloned into.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The file of the process's cgroup that counts OOM kills (`oom_kill`).
    pub oom_file: Option<PathBuf>,
}

/// Clones the new process and thereby decides which process is its parent.
pub trait Spawner: std::fmt::Debug {
    /// Clones the process, which then executes its steps.
    ///
    /// # Errors
    /// The kernel refuses.
    fn spawn(&self, request: SpawnRequest<'_>) -> Result<Spawned>;

    /// Tracks the forked copy `pid` instead of the process `before`, when the plan forks again inside the PID
    /// namespace. `pid` is a child of the same parent and has not been reaped; `before` has ended or is about to.
    ///
    /// # Errors
    /// The copy cannot be opened, or `before` does not end.
    fn adopt(&self, before: &Spawned, pid: i32) -> Result<Spawned> {
        let known = Pid::from_raw(pid).ok_or_else(|| Error::new(Kind::Bug, "the new process has no pid"))?;
        let pidfd = pidfd_open(known, PidfdFlags::empty()).doing(|| format!("open process {pid}"))?;
        waitid(WaitId::PidFd(before.pidfd.as_fd()), WaitIdOptions::EXITED)
            .doing(|| "wait for the process that entered the container")?;
        Ok(Spawned { pid, pidfd })
    }
}

/// The calling process becomes the parent.
#[derive(Debug, Clone, Copy)]
pub struct Own;

impl Spawner for Own {
    fn spawn(&self, request: SpawnRequest<'_>) -> Result<Spawned> {
        clone_in_place(&request, Relation::Child, None)
    }
}

/// The caller's parent becomes the parent (CLONE_PARENT): for a child that exists only to launch.
#[derive(Debug, Clone, Copy)]
pub struct OwnParent;

impl Spawner for OwnParent {
    fn spawn(&self, request: SpawnRequest<'_>) -> Result<Spawned> {
        clone_in_place(&request, Relation::Sibling, None)
    }
}

/// The calling process becomes the parent, and these descriptors become the new process's standard input, output and
/// error.
#[derive(Debug)]
pub struct OwnWithStreams(pub [OwnedFd; 3]);

impl Spawner for OwnWithStreams {
    fn spawn(&self, request: SpawnRequest<'_>) -> Result<Spawned> {
        clone_in_place(&request, Relation::Child, Some(&self.0))
    }
}

/// Clones the process with `parent` into its namespaces and its cgroup, and performs the set-up that the parent does
/// from outside. The whole set-up may take `limit`, not counting hooks.
///
/// # Errors
/// A descriptor of the plan cannot be opened, or the kernel refuses the clone, the id maps or the cgroup.
pub fn spawn<'p>(
    plan: &'p Plan,
    mut inputs: Inputs,
    group: Option<&Group>,
    parent: &'p dyn Spawner,
    limit: Duration,
) -> Result<NewProcess<'p>> {
    let fds = prepare::open_all(plan, &mut inputs)?;
    let oom_score_adj_may_stay = inputs.oom_score_adj_may_stay;
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).doing(|| "make a socket pair")?;
    if plan.forks() {
        wire::pass_credentials(ours.as_fd()).doing(|| "make a socket pair")?;
    }
    let deadline = Deadline::after(limit + plan.time_of_hooks());
    let cgroup = group.and_then(Group::dir_fd);
    let oom_file = group.and_then(Group::oom_file);
    let process = parent.spawn(SpawnRequest { plan, fds: &fds, sync: theirs.as_fd(), cgroup, oom_file })?;
    drop(theirs);
    let new = NewProcess {
        plan,
        parent,
        process,
        sync: ours,
        fds,
        deadline,
        let_go: false,
        oom_score_adj_may_stay,
    };
    new.set_up_from_outside(group)?;
    Ok(new)
}

/// Which process the new one becomes a child of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Relation {
    /// A child of the caller, which waits until the set-up is done.
    Child,
    /// A sibling of the caller; the caller exits after the clone.
    Sibling,
}

/// Enters those namespaces that a process can only be created in, clones, and returns to the caller's own namespaces.
fn clone_in_place(
    request: &SpawnRequest<'_>,
    relation: Relation,
    streams: Option<&[OwnedFd; 3]>,
) -> Result<Spawned> {
    let SpawnRequest { plan, fds, sync, cgroup, .. } = *request;
    // The new process is a copy of this one, and other processes in its PID namespace can see it from the first
    // moment.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .doing(|| "keep others from tracing this process")?;
    let _home = Home::leave(plan, fds)?;
    if let Some(owner) = plan.namespaces.owner {
        if relation == Relation::Child {
            return Err(Error::new(Kind::Unsupported, "make namespaces in a user namespace that is joined")
                .hint("have a user namespace made, or join the mount and PID namespaces as well"));
        }
        sys::process::setns(fds[owner.0].as_fd(), libc::CLONE_NEWUSER).doing(|| "join the user namespace")?;
    }
    let mut keep: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).chain([sync.as_raw_fd()]).collect();
    keep.sort_unstable();
    let dies_with_parent = relation == Relation::Child;
    let start = init::ChildInputs { fds, sync, keep: &keep, dies_with_parent };
    let child = || {
        for (number, fd) in (0..).zip(streams.into_iter().flatten()) {
            // Both descriptors are open, so this cannot fail.
            let _ = sys::process::dup_onto(fd.as_fd(), number);
        }
        init::run(plan, start)
    };
    let parent = if relation == Relation::Sibling { libc::CLONE_PARENT as u64 } else { 0 };
    let flags = u64::from(plan.namespaces.clone_flags.cast_unsigned()) | parent;
    sys::process::spawn(flags, cgroup, child).doing(|| "clone the container's first process").map_err(|e| {
        match e.kind() {
            Kind::Denied => e.hint("new namespaces need root, or a user namespace"),
            _ => e,
        }
    })
}

/// The parent's own namespaces; dropping this re-enters them.
struct Home(Vec<(OwnedFd, i32)>);

impl Home {
    fn leave(plan: &Plan, fds: &[OwnedFd]) -> Result<Self> {
        let mut home = Self(Vec::new());
        for (slot, kind) in &plan.namespaces.parent_joins {
            let name = match *kind {
                libc::CLONE_NEWPID => "pid",
                libc::CLONE_NEWNET => "net",
                libc::CLONE_NEWIPC => "ipc",
                libc::CLONE_NEWUTS => "uts",
                _ => "cgroup",
            };
            let path = format!("/proc/self/ns/{name}");
            let own = std::fs::File::open(&path).doing(|| format!("open {path}"))?;
            sys::process::setns(fds[slot.0].as_fd(), *kind).doing(|| format!("join the {name} namespace"))?;
            home.0.push((own.into(), *kind));
        }
        Ok(home)
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for (own, kind) in self.0.drain(..).rev() {
            // The parent was in this namespace a moment ago with the same rights, so this cannot be refused.
            let _ = sys::process::setns(own.as_fd(), kind);
        }
    }
}

impl NewProcess<'_> {
    /// The process's pid in the caller's PID namespace.
    pub fn pid(&self) -> i32 {
        self.process.pid
    }

    /// Does what only the parent can do: processors, id maps, cgroup v1, oom_score_adj; then lets the child go on if it waits
    /// for that.
    fn set_up_from_outside(&self, group: Option<&Group>) -> Result<()> {
        self.free_processors();
        if let Some(maps) = &self.plan.namespaces.maps {
            user_namespace::write_maps(self.pid(), maps)?;
        }
        if let Some(group) = group.filter(|g| g.dir_fd().is_none()) {
            group.attach(self.pid()).map_err(|e| e.doing("put the process into its cgroup"))?;
        }
        if let Some(adj) = self.plan.oom_score_adj {
            let path = format!("/proc/{}/oom_score_adj", self.pid());
            match std::fs::write(&path, adj.to_string()) {
                Err(e) if e.kind() == ErrorKind::PermissionDenied && self.oom_score_adj_may_stay => {}
                written => written
                    .doing(|| format!("write {adj} to {path}"))
                    .map_err(|e| e.hint("process.oomScoreAdj: lowering it needs CAP_SYS_RESOURCE"))?,
            }
        }
        if self.plan.steps.first() == Some(&super::steps::Step::AwaitParent) {
            self.permit(Permission::SetUp)?;
        }
        Ok(())
    }

    /// Lets the process run on all processors of its cpuset, also where this one was bound to some of them, as by systemd's
    /// CPUAffinity= or taskset(1). Being refused is no failure: then the process runs where this one does.
    fn free_processors(&self) {
        let mut all = CpuSet::new();
        (0..CpuSet::MAX_CPU).for_each(|processor| all.set(processor));
        let _ = sched_setaffinity(Pid::from_raw(self.pid()), &all);
    }

    fn permit(&self, permission: Permission) -> Result<()> {
        match wire::permit(self.sync.as_fd(), permission) {
            // The process is gone; `follow` reports why.
            Err(Errno::PIPE | Errno::CONNRESET) | Ok(()) => Ok(()),
            Err(errno) => Err(errno).doing(|| "let the process go on"),
        }
    }

    /// Writes the container's state to the file that hooks inside the container read.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn give_state(&self, state: &str) -> Result<()> {
        for (open, fd) in self.plan.opens.0.iter().zip(&self.fds) {
            if *open == Open::HookState {
                rustix::fs::ftruncate(fd, 0)
                    .and_then(|()| rustix::io::pwrite(fd, state.as_bytes(), 0))
                    .doing(|| "write the container's state for its hooks")?;
            }
        }
        Ok(())
    }

    /// Lets the process execute its last steps.
    ///
    /// # Errors
    /// The socket is broken. A process that has ended is no error here; [`NewProcess::follow`] reports it.
    pub fn go(&self) -> Result<()> {
        self.permit(Permission::Go)
    }

    /// Reads reports until the process has forked into the PID namespace it joins, if the plan has it fork: from then
    /// on `pid` is the container's process. Runs `hooks` when the process waits for them.
    ///
    /// # Errors
    /// The step that failed in the process, or the signal that killed it.
    pub fn follow_fork(&mut self, hooks: impl FnMut() -> Result<()>) -> Result<()> {
        match self.plan.forks() {
            true => self.follow_until(hooks, true),
            false => Ok(()),
        }
    }

    /// Reads reports until the process is ready or has executed the payload. Runs `hooks` when the process waits for
    /// them.
    ///
    /// # Errors
    /// The step that failed in the process, or the signal that killed it.
    pub fn follow(&mut self, hooks: impl FnMut() -> Result<()>) -> Result<()> {
        self.follow_until(hooks, false)
    }

    fn follow_until(&mut self, mut hooks: impl FnMut() -> Result<()>, forked: bool) -> Result<()> {
        loop {
            let message = match wire::receive_report(self.sync.as_fd(), &self.deadline) {
                Err(ReceiveError::Errno(Errno::TIMEDOUT)) => return Err(self.took_too_long()),
                other => other.doing(|| "read a report of the new process")?,
            };
            let Some(message) = message else { return self.ended() };
            match message.report {
                Report::Ready => return Ok(()),
                Report::Hooks => {
                    self.deadline.suspend(&mut hooks)?;
                    self.permit(Permission::Hooks)?;
                }
                Report::Listener(fd) => self.fetch_listener(fd)?,
                Report::Failed(failure) => return Err(self.explain(failure)),
                Report::Forked(pid) => {
                    let pid = if pid == 0 { message.sender } else { pid };
                    // The original and the copy both report the fork.
                    if pid == self.pid() {
                        continue;
                    }
                    self.process = self.parent.adopt(&self.process, pid)?;
                    if forked {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn fetch_listener(&self, fd: i32) -> Result<()> {
        let target = self.plan.listener.as_ref();
        let fetched = pidfd_getfd(&self.process.pidfd, fd, PidfdGetfdFlags::empty())
            .doing(|| "fetch the seccomp listener")?;
        listener::hand_over(target, fetched, self.pid())?;
        self.permit(Permission::Listener)
    }

    fn took_too_long(&self) -> Error {
        let seconds = self.deadline.limit().as_secs_f64();
        Error::new(Kind::TimedOut, format!("the process was not set up within {seconds} s"))
            .hint("did something inside the container stop it, or does one of its filesystems hang?")
    }

    /// End of file means that the payload was executed, or that the process died before.
    fn ended(&self) -> Result<()> {
        if matches!(ProcStat::read(self.pid()), Ok(Some(stat)) if stat.has_executed) {
            return Ok(());
        }
        // A dying process closes its descriptors before its parent can wait for it.
        match Deadline::after(DEATH_LIMIT).wait_readable(self.process.pidfd.as_fd()) {
            Err(Errno::TIMEDOUT) => return Err(Error::new(Kind::TimedOut, "the process does not end")),
            other => other.doing(|| "wait for the process")?,
        }
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = match waitid(WaitId::PidFd(self.process.pidfd.as_fd()), options) {
            // Another process is the parent: it reports whether the program ran and how it ended.
            Err(Errno::CHILD) => return Ok(()),
            other => other.doing(|| "wait for the process")?,
        };
        // This process is the only one that could reap it, so the pid has not been reused.
        if matches!(ProcStat::read(self.pid()), Ok(Some(stat)) if stat.has_executed) {
            return Ok(());
        }
        let how = match status.and_then(|status| status.terminating_signal()) {
            Some(signal) => format!("was killed by signal {signal}"),
            None => "ended".to_owned(),
        };
        Err(Error::new(Kind::System, format!("the container's first process {how} while it was set up"))
            .hint("is the memory limit too low, or did something kill it?"))
    }

    fn explain(&self, failure: Failure) -> Error {
        let step = self.plan.steps.get(usize::try_from(failure.step).unwrap_or(usize::MAX));
        explain::explain(self.plan, step, failure)
    }

    fn kill(&self) {
        let _ = pidfd_send_signal(&self.process.pidfd, Signal::KILL);
        // Wait for the end whichever process is the parent, so that what the process held is free when this returns.
        // A process that waits for a filesystem, or that the freezer of cgroup v1 holds, dies of SIGKILL only when
        // released.
        let _ = Deadline::after(DEATH_LIMIT).wait_readable(self.process.pidfd.as_fd());
    }

    /// Kills the copy that the process forked, if the report of that fork has not been read yet.
    fn kill_copy(&mut self) {
        let now = Deadline::after(Duration::ZERO);
        while let Ok(Some(message)) = wire::receive_report(self.sync.as_fd(), &now) {
            let Report::Forked(pid) = message.report else { continue };
            let pid = if pid == 0 { message.sender } else { pid };
            if pid == self.pid() {
                continue;
            }
            if let Ok(copy) = self.parent.adopt(&self.process, pid) {
                self.process = copy;
                self.kill();
            }
        }
    }

    /// Leaves the process running and hands its pidfd to the caller.
    pub fn let_go(mut self) -> Result<Spawned> {
        self.let_go = true;
        let pidfd = self.process.pidfd.try_clone().doing(|| "keep the process's pidfd")?;
        Ok(Spawned { pid: self.process.pid, pidfd })
    }
}

impl Drop for NewProcess<'_> {
    fn drop(&mut self) {
        if !self.let_go {
            self.kill();
            self.kill_copy();
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
            let _ = waitid(WaitId::PidFd(self.process.pidfd.as_fd()), options);
        }
    }
}
