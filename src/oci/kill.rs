//! `kill`: a signal to a container.

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::Runtime;
use super::lifecycle::{Event, Status};
use crate::cgroup::Group;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::record::{ContainerState, Layout, Lock};

/// Sends `signal` to the container's first process, or with `all` to every process in its cgroup.
///
/// # Errors
/// `WrongState` when the container does not run; with `all` a stopped one may still have processes to kill.
pub fn kill(runtime: &Runtime, id: &ContainerId, signal: i32, all: bool) -> Result<()> {
    let layout = Layout::new(&runtime.root, id);
    let _lock = Lock::take(&layout)?;
    let state = ContainerState::load(&layout)?;
    if all {
        return Group::from_paths(&state.cgroup_paths)?.kill_all(signal);
    }
    let status = Status::of(&state, &layout)?;
    status.admits(Event::Kill)?;
    signal_init(&state, signal)?;
    if status == Status::Paused && signal == libc::SIGKILL {
        // A frozen process dies only once it is thawed.
        Group::from_paths(&state.cgroup_paths)?.thaw()?;
    }
    Ok(())
}

/// Sends a signal to the first process, made sure of by its start time after the pidfd is open.
pub(super) fn signal_init(state: &ContainerState, signal: i32) -> Result<()> {
    let gone = || Error::new(Kind::WrongState, "container not running");
    let pid = Pid::from_raw(state.init_process_pid).ok_or_else(gone)?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|_| gone())?;
    let stat = crate::launch::proc_stat::ProcStat::read(state.init_process_pid)?;
    if stat.is_none_or(|stat| stat.start_time != state.init_process_start) {
        return Err(gone());
    }
    let Some(signal) = signal_from(signal) else {
        return Err(Error::invalid(format!("there is no signal {signal}")));
    };
    pidfd_send_signal(&pidfd, signal)
        .doing(|| format!("send {signal:?} to process {}", state.init_process_pid))
}

/// A signal by number, real-time ones included.
pub fn signal_from(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number).or_else(|| {
        let real_time = (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number);
        real_time.then(|| crate::sys::signal::from_raw(number))
    })
}
