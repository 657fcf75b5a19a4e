//! `exec`: adds a process to a running container.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oci_spec::runtime::{LinuxNamespaceType, Process, Spec};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, pidfd_send_signal};

use super::lifecycle::{Event, Status};
use super::{Runtime, create, foreground};
use crate::cgroup::Group;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::launch::apply;
use crate::launch::deadline::SET_UP_LIMIT;
use crate::launch::plan::Plan;
use crate::launch::prepare::Inputs;
use crate::launch::request::{ExecRequest, Facts, Options};
use crate::linux::proc_stat::ProcStat;
use crate::record::{ContainerState, Layout, Lock};
use crate::sys::process::Spawned;

/// Options of adding a process.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// A listening unix socket that receives the terminal's master.
    pub console_socket: Option<PathBuf>,
    /// The file that the pid is written to.
    pub pid_file: Option<PathBuf>,
    /// Return when the process runs.
    pub detach: bool,
    /// How many descriptors, from 3 on, the process inherits.
    pub preserve_fds: u32,
    /// Allow a paused container; the process runs when the container is resumed.
    pub ignore_paused: bool,
    /// The container belongs to a pod; see [`create::CreateOptions::in_pod`].
    pub in_pod: bool,
}

/// Reads the configuration that a container was created from.
///
/// # Errors
/// `NotFound` when there is no such container.
pub fn spec_of(runtime: &Runtime, id: &ContainerId) -> Result<Spec> {
    let layout = Layout::new(&runtime.root, id);
    ContainerState::load(&layout)?;
    let path = layout.config();
    let text = std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text)
        .map_err(|e| Error::new(Kind::Corrupt, format!("{} is damaged", path.display())).because(e))
}

/// Adds a process to a running container and waits for it. Returns its exit code, 128 + the signal that ended it, or
/// 0 when detached.
///
/// # Errors
/// `WrongState` when the container does not run; the process cannot be set up or executed.
pub fn exec(runtime: &Runtime, id: &ContainerId, process: &Process, options: &ExecOptions) -> Result<i32> {
    let spec = spec_of(runtime, id)?;
    let layout = Layout::new(&runtime.root, id);
    // A filesystem that the container serves itself can block this, so the lock is not held yet.
    let mut process = process.clone();
    let terminal = process.terminal().unwrap_or(false);
    if terminal && !options.detach && options.console_socket.is_none() {
        foreground::inherit_terminal_size(&mut process);
    }
    let root = PathBuf::from(format!("/proc/{}/root", ContainerState::load(&layout)?.init_process_pid));
    crate::spec::user::complete_home(&mut process, &root);
    let event = if options.ignore_paused { Event::ExecPaused } else { Event::Exec };
    let state = admitted(&layout, event, Lock::take(&layout)?)?;
    let (ours, console) = match (terminal, &options.console_socket, options.detach) {
        (false, ..) => (None, None),
        (true, Some(path), _) => (None, Some(create::connect(path)?)),
        (true, None, true) => {
            return Err(Error::invalid("a detached process with a terminal needs a console socket")
                .hint("give --console-socket"));
        }
        (true, None, false) => {
            let (ours, theirs) = foreground::console_pair()?;
            (Some(ours), Some(theirs))
        }
    };
    let signals = (!options.detach).then(crate::sys::signal::capture_all).transpose();
    let signals = signals.doing(|| "wait for signals")?;
    let group = Group::from_paths(&state.cgroup_paths)?;
    let exec = Exec { spec: &spec, process: &process, options, state: &state, id, limit: SET_UP_LIMIT };
    let spawned = exec.spawn(runtime, &group, console, &apply::Own)?;
    if let Some(file) = &options.pid_file {
        create::write_pid_file(file, spawned.pid)?;
    }
    let Some(signals) = signals else { return Ok(0) };
    let master = ours.map(|ours| foreground::receive_master(&ours)).transpose()?;
    foreground::proxy_until_exit(&spawned, &signals, master)
}

/// What the standard streams of a process in a pod's container are.
#[derive(Debug)]
pub enum Streams {
    /// These descriptors.
    Given([OwnedFd; 3]),
    /// A new terminal.
    Terminal,
}

/// A process that was added to a pod's container.
#[derive(Debug)]
pub struct Added {
    /// The process; the caller waits for it.
    pub process: Spawned,
    /// A cgroup for only this process and its children, if the host supports one.
    pub apart: Option<Group>,
    /// The master of its terminal.
    pub master: Option<OwnedFd>,
}

/// Adds a process with these arguments and standard streams to a running container, otherwise like the container's
/// own process, for a container of a pod. `name` names a cgroup of its own. The set-up takes at most `limit`.
///
/// # Errors
/// As [`exec`]; `Busy` or `TimedOut` when the time is up.
pub fn exec_in_pod(
    runtime: &Runtime,
    id: &ContainerId,
    args: &[String],
    streams: Streams,
    name: &str,
    limit: Duration,
) -> Result<Added> {
    let end = Instant::now() + limit;
    let spec = spec_of(runtime, id)?;
    let layout = Layout::new(&runtime.root, id);
    let state = admitted(&layout, Event::Exec, Lock::take_within(&layout, limit)?)?;
    let mut process = spec.process().clone().unwrap_or_default();
    let (ours, console, parent): (_, _, Box<dyn apply::Spawner>) = match streams {
        Streams::Given(streams) => (None, None, Box::new(apply::OwnWithStreams(streams))),
        Streams::Terminal => {
            let (ours, theirs) = foreground::console_pair()?;
            (Some(ours), Some(theirs), Box::new(apply::Own))
        }
    };
    process.set_args(Some(args.to_vec())).set_terminal(Some(ours.is_some())).set_console_size(None);
    if ours.is_some() {
        name_terminal(&mut process);
    }
    let options = ExecOptions { in_pod: true, ..ExecOptions::default() };
    let whole = Group::from_paths(&state.cgroup_paths)?;
    let apart = whole.create_subgroup(name)?;
    let limit = end.saturating_duration_since(Instant::now());
    let exec = Exec { spec: &spec, process: &process, options: &options, state: &state, id, limit };
    match exec.spawn(runtime, apart.as_ref().unwrap_or(&whole), console, &*parent) {
        Ok(process) => {
            // It was sent before the program was executed.
            let master = ours.map(|ours| foreground::receive_master(&ours)).transpose()?;
            Ok(Added { process, apart, master })
        }
        Err(error) => {
            if let Some(apart) = apart {
                let _ = apart.kill_and_remove();
            }
            Err(error)
        }
    }
}

/// Sets the kind of the terminal, as containerd does, unless the container names one.
fn name_terminal(process: &mut Process) {
    let mut env = process.env().clone().unwrap_or_default();
    if !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
        process.set_env(Some(env));
    }
}

/// An exec in progress: a process to be added.
struct Exec<'a> {
    spec: &'a Spec,
    process: &'a Process,
    options: &'a ExecOptions,
    state: &'a ContainerState,
    id: &'a ContainerId,
    /// How long the set-up may take.
    limit: Duration,
}

impl Exec<'_> {
    /// A concurrent delete kills the processes in the cgroup once the container's first process has ended. The new
    /// process is in the cgroup by now: either it was killed with the others, or it came too late and is killed here.
    fn end_if_left_behind(&self, spawned: &Spawned) {
        if target(self.state).is_err() {
            // The process may have ended already.
            let _ = pidfd_send_signal(&spawned.pidfd, Signal::KILL);
        }
    }

    fn spawn(
        &self,
        runtime: &Runtime,
        group: &Group,
        console: Option<OwnedFd>,
        parent: &dyn apply::Spawner,
    ) -> Result<Spawned> {
        let mut with_process = self.spec.clone();
        with_process.set_process(Some(self.process.clone())).set_mounts(None);
        let facts = Facts::gather(&with_process, false, self.state.cgroup_paths.clone())?;
        let seccomp = runtime.compile(self.spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()))?;
        let options = Options {
            no_new_keyring: self.state.coracle.no_new_keyring,
            preserve_fds: self.options.preserve_fds,
            parent_attaches: group.dir_fd().is_none(),
            ..Options::default()
        };
        let seccomp = seccomp.as_ref();
        let request = ExecRequest {
            id: self.id,
            spec: self.spec,
            process: self.process,
            facts: &facts,
            seccomp,
            options,
        };
        let plan = Plan::for_exec(&request)?;
        let process = target(self.state)?;
        let root = if has_mount_namespace(self.spec) { None } else { Some(root_of(self.state)?) };
        let inputs = Inputs {
            root,
            console,
            process: Some(process),
            oom_score_adj_may_stay: self.options.in_pod,
            ..Inputs::default()
        };
        let mut new = apply::spawn(&plan, inputs, Some(group), parent, self.limit)?;
        new.follow(|| Ok(()))?;
        let spawned = new.let_go()?;
        self.end_if_left_behind(&spawned);
        Ok(spawned)
    }
}

/// Reads the state of a container, checks that it admits the event, and releases the lock: the next steps wait for a
/// process that processes in the container can stop, and others must be able to stop or delete the container
/// meanwhile.
fn admitted(layout: &Layout, event: Event, _lock: Lock) -> Result<ContainerState> {
    let state = ContainerState::load(layout)?;
    Status::of(&state, layout)?.admits(event)?;
    Ok(state)
}

fn has_mount_namespace(spec: &Spec) -> bool {
    let namespaces = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    namespaces.into_iter().flatten().any(|namespace| namespace.typ() == LinuxNamespaceType::Mount)
}

/// Opens the root directory of the container's first process.
fn root_of(state: &ContainerState) -> Result<OwnedFd> {
    let path = format!("/proc/{}/root", state.init_process_pid);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty()).doing(|| format!("open {path}"))?;
    // If the pid still belongs to that process, the root was that process's.
    target(state)?;
    Ok(root)
}

/// A pidfd of the container's first process, verified by its start time.
fn target(state: &ContainerState) -> Result<OwnedFd> {
    let gone = || Error::new(Kind::WrongState, "container not running");
    let pidfd = super::kill::open_init(state)?.ok_or_else(gone)?;
    // The process may be a zombie.
    match ProcStat::read(state.init_process_pid)? {
        Some(stat) if !stat.is_dead() => Ok(pidfd),
        _ => Err(gone()),
    }
}
