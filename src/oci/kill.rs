//! `kill`: sends a signal to a container.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};

use super::Runtime;
use super::lifecycle::{Event, Status};
use crate::cgroup::Group;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::record::{ContainerState, Layout, Lock};

/// How long to wait for another verb that holds the container's lock: a container being created should be complete
/// before it gets a signal. A verb that takes longer may be waiting for a process that the signal ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// Sends `signal` to the container's first process, or with `all` to every process in its cgroup. Waits briefly for
/// the container's lock, and then goes on without it.
///
/// # Errors
/// `WrongState` when the container does not run. With `all`, a stopped one may still have processes to kill.
pub fn kill(runtime: &Runtime, id: &ContainerId, signal: i32, all: bool) -> Result<()> {
    let _lock = match Lock::take_within(&Layout::new(&runtime.root, id), PATIENCE) {
        Err(error) if error.kind() == Kind::Busy => None,
        taken => Some(taken?),
    };
    kill_at_once(runtime, id, signal, all)
}

/// As [`kill`] without waiting for the lock, for callers who know that the container has been created.
///
/// # Errors
/// As [`kill`].
pub fn kill_at_once(runtime: &Runtime, id: &ContainerId, signal: i32, all: bool) -> Result<()> {
    let layout = Layout::new(&runtime.root, id);
    let state = ContainerState::load(&layout)?;
    if all {
        return Group::from_paths(&state.cgroup_paths)?.kill_all(signal);
    }
    let status = Status::of(&state, &layout)?;
    if status == Status::Stopped && signal == libc::SIGKILL && !state.namespace_paths.contains_key("NEWPID") {
        // Nothing has ended the processes that the first one left in the PID namespace of others.
        let group = Group::from_paths(&state.cgroup_paths)?;
        if !group.pids()?.is_empty() {
            return group.kill_all(signal);
        }
    }
    status.admits(Event::Kill)?;
    signal_init(&state, signal)?;
    if status == Status::Paused && signal == libc::SIGKILL {
        // A frozen process dies only when it is thawed.
        Group::from_paths(&state.cgroup_paths)?.thaw_if_exists()?;
    }
    Ok(())
}

/// A pidfd of the container's first process; `None` when it has ended and been reaped.
///
/// # Errors
/// The pidfd cannot be opened for another reason, so it is unknown whether the process has ended.
pub(super) fn open_init(state: &ContainerState) -> Result<Option<OwnedFd>> {
    crate::linux::proc_stat::open(state.init_process_pid, state.init_process_start)
}

/// Sends a signal to the first process.
pub(super) fn signal_init(state: &ContainerState, signal: i32) -> Result<()> {
    let pidfd = open_init(state)?.ok_or_else(|| Error::new(Kind::WrongState, "container not running"))?;
    let Some(signal) = signal_from(signal) else {
        return Err(Error::invalid(format!("there is no signal {signal}")));
    };
    pidfd_send_signal(&pidfd, signal)
        .doing(|| format!("send {signal:?} to process {}", state.init_process_pid))
}

/// Converts a number to a signal, including real-time ones.
pub fn signal_from(number: i32) -> Option<Signal> {
    crate::sys::signal::from_number(number)
}

/// Parses a signal from its number or name, with or without SIG; real-time signals as RTMIN+n and RTMAX-n.
///
/// # Errors
/// `Invalid` when there is no such signal.
pub fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || {
        Error::invalid(format!("there is no signal {text:?}"))
            .hint("see signal(7): KILL, SIGTERM, 15, RTMIN+1")
    };
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let (low, high) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let number = if let Ok(number) = name.parse::<i32>() {
        Some(number)
    } else if let Some(offset) = name.strip_prefix("RTMIN") {
        if offset.is_empty() {
            Some(low)
        } else {
            offset.strip_prefix('+').and_then(|n| Some(low + n.parse::<i32>().ok()?))
        }
    } else if let Some(offset) = name.strip_prefix("RTMAX") {
        if offset.is_empty() {
            Some(high)
        } else {
            offset.strip_prefix('-').and_then(|n| Some(high - n.parse::<i32>().ok()?))
        }
    } else {
        format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
    };
    number.filter(|n| (1..32).contains(n) || (low..=high).contains(n)).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in
            [("KILL", 9), ("SIGTERM", 15), ("sigusr1", 10), ("1", 1), ("RTMIN+1", libc::SIGRTMIN() + 1)]
        {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for bad in ["", "SIG", "NOPE", "0", "-9", "99", "RTMIN+99", "RTMIN-1", "32"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }
}
