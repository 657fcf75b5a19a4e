//! `exec`: one more process in a running container.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::{Process, Spec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::lifecycle::{Event, Status};
use super::{Runtime, attach, create};
use crate::cgroup::Group;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::launch::apply;
use crate::launch::plan::Plan;
use crate::launch::prepare::Given;
use crate::launch::proc_stat::ProcStat;
use crate::launch::request::{ExecRequest, Facts, Options};
use crate::record::{ContainerState, Layout, Lock};

/// How a process is added.
#[derive(Debug, Clone, Default)]
pub struct ExecOptions {
    /// A listening unix socket that gets the terminal.
    pub console_socket: Option<PathBuf>,
    /// Where its pid is written.
    pub pid_file: Option<PathBuf>,
    /// Leave once it runs.
    pub detach: bool,
    /// Descriptors from 3 on that it inherits.
    pub preserve_fds: u32,
    /// Add it to a paused container too; it runs when that is resumed.
    pub ignore_paused: bool,
}

/// The configuration that a container was created from.
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

/// Adds a process to a running container; its exit code, or 128 + the signal that ended it. 0 when detached.
///
/// # Errors
/// `WrongState` when the container does not run; the process cannot be set up or executed.
pub fn exec(runtime: &Runtime, id: &ContainerId, process: &Process, options: &ExecOptions) -> Result<i32> {
    let spec = spec_of(runtime, id)?;
    let layout = Layout::new(&runtime.root, id);
    let lock = Lock::take(&layout)?;
    let state = ContainerState::load(&layout)?;
    let event = if options.ignore_paused { Event::ExecPaused } else { Event::Exec };
    Status::of(&state, &layout)?.admits(event)?;
    let terminal = process.terminal().unwrap_or(false);
    let (ours, console) = match (terminal, &options.console_socket, options.detach) {
        (false, ..) => (None, None),
        (true, Some(path), _) => (None, Some(create::connect(path)?)),
        (true, None, true) => {
            return Err(Error::invalid("a detached process with a terminal needs a console socket")
                .hint("give --console-socket"));
        }
        (true, None, false) => {
            let (ours, theirs) = attach::console_pair()?;
            (Some(ours), Some(theirs))
        }
    };
    let signals = (!options.detach).then(crate::sys::signal::capture_all).transpose();
    let signals = signals.doing(|| "wait for signals")?;
    let mut process = process.clone();
    let root = PathBuf::from(format!("/proc/{}/root", state.init_process_pid));
    super::profile::user::complete_home(&mut process, &root);
    let spawned = spawn(runtime, &spec, &process, options, &state, console)?;
    drop(lock);
    if let Some(file) = &options.pid_file {
        create::write_pid_file(file, spawned.pid)?;
    }
    let Some(signals) = signals else { return Ok(0) };
    let master = ours.map(|ours| attach::receive_master(&ours)).transpose()?;
    attach::attend(&spawned, &signals, master)
}

fn spawn(
    runtime: &Runtime,
    spec: &Spec,
    process: &Process,
    options: &ExecOptions,
    state: &ContainerState,
    console: Option<OwnedFd>,
) -> Result<crate::sys::process::Spawned> {
    let group = Group::from_paths(&state.cgroup_paths)?;
    let mut with_process = spec.clone();
    with_process.set_process(Some(process.clone())).set_mounts(None);
    let facts = Facts::gather(&with_process, false, state.cgroup_paths.clone())?;
    let seccomp = runtime.compile(spec.linux().as_ref().and_then(|l| l.seccomp().as_ref()))?;
    let options = Options {
        no_new_keyring: true,
        preserve_fds: options.preserve_fds,
        parent_attaches: group.dir_fd().is_none(),
        ..Options::default()
    };
    let request = ExecRequest { spec, process, facts: &facts, seccomp: seccomp.as_ref(), options };
    let plan = Plan::for_exec(&request)?;
    let given = Given { root: None, console, start_socket: None, process: Some(target(state)?) };
    let launched = apply::spawn(&plan, given, Some(&group), &apply::Own)?;
    launched.go()?;
    launched.follow(|| Ok(()))?;
    launched.let_go()
}

/// A pidfd of the container's first process, made sure of by its start time.
fn target(state: &ContainerState) -> Result<OwnedFd> {
    let gone = || Error::new(Kind::WrongState, "container not running");
    let pid = Pid::from_raw(state.init_process_pid).ok_or_else(gone)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
    let stat = ProcStat::read(state.init_process_pid)?;
    if stat.is_some_and(|s| s.start_time == state.init_process_start && !s.is_dead()) {
        Ok(pidfd)
    } else {
        Err(gone())
    }
}
