//! `delete`: removes everything that is left of a container.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Runtime;
use super::lifecycle::{Event, Status};
use crate::cgroup::Group;
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::launch::hooks;
use crate::record::{ContainerState, Layout, Lock, noted_group};

/// How long to wait for a killed container to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Removes the container's cgroup and state. With `force` it kills the container first, and a missing one is no
/// error.
///
/// # Errors
/// `WrongState` when the container has not stopped, `NotFound` when it does not exist.
pub fn delete(runtime: &Runtime, id: &ContainerId, force: bool) -> Result<()> {
    let layout = Layout::new(&runtime.root, id);
    let taken = if force { take_by_force(&layout) } else { Lock::take(&layout) };
    let _lock = match taken {
        Err(e) if force && e.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    let state = match ContainerState::load(&layout) {
        // A create was killed before it wrote the record, or the record is damaged.
        Err(e) if force && matches!(e.kind(), Kind::NotFound | Kind::Corrupt) => {
            super::create::give_back(&noted_group(&layout)?);
            return layout.remove();
        }
        other => other?,
    };
    let status = Status::of(&state, &layout)?;
    if force && status != Status::Stopped {
        kill_and_wait(&state)?;
    } else {
        status.admits(Event::Delete)?;
    }
    remove(&layout, &state)
}

/// Takes the lock of a container that will be killed in any case: a verb that waits for one of its processes ends
/// with the kill.
fn take_by_force(layout: &Layout) -> Result<Lock> {
    match Lock::take_within(layout, Duration::ZERO) {
        Err(e) if e.kind() == Kind::Busy => {}
        other => return other,
    }
    // Killing the first process ends the whole PID namespace; the cgroup note has the processes of a create that was
    // killed.
    let paths = match ContainerState::load(layout) {
        Ok(state) => {
            let _ = super::kill::signal_init(&state, libc::SIGKILL);
            state.cgroup_paths
        }
        // Another release created it: none of its processes are killed.
        Err(e) if e.kind() == Kind::Unsupported => return Err(e),
        Err(_) => noted_group(layout)?,
    };
    if let Ok(group) = Group::from_paths(&paths) {
        group.kill_all(libc::SIGKILL)?;
    }
    Lock::take_within(layout, PATIENCE)
}

/// Removes what a stopped container leaves behind: processes, cgroup, record; then runs its poststop hooks.
pub(super) fn remove(layout: &Layout, state: &ContainerState) -> Result<()> {
    if let Ok(group) = Group::from_paths(&state.cgroup_paths) {
        // A container that shares its PID namespace may leave processes behind when its first one ends.
        let shares_pids = !state.namespace_paths.contains_key("NEWPID");
        if shares_pids {
            let _ = group.kill_all(libc::SIGKILL);
        }
        group.remove()?;
    }
    layout.remove()?;
    let poststop = state.coracle.hooks.as_ref().and_then(|h| h.poststop().as_ref());
    let Some(poststop) = poststop.filter(|h| !h.is_empty()) else { return Ok(()) };
    let public = state.public("stopped");
    let text = serde_json::to_string(&public).unwrap_or_default();
    for hook in poststop {
        // SPEC(runtime 1.2 #lifecycle): a failing poststop hook is a warning, and the others still run.
        if let Err(error) = hooks::run("poststop", std::slice::from_ref(hook), &text) {
            crate::log::warning(&error.chain());
        }
    }
    Ok(())
}

fn kill_and_wait(state: &ContainerState) -> Result<()> {
    let pidfd = super::kill::open_init(state)?;
    match super::kill::signal_init(state, libc::SIGKILL) {
        Err(e) if e.kind() != Kind::WrongState => return Err(e),
        _ => {}
    }
    if let Ok(group) = Group::from_paths(&state.cgroup_paths) {
        group.kill_all(libc::SIGKILL)?;
        if group.is_frozen().unwrap_or(false) {
            group.thaw_if_exists()?;
        }
    }
    let Some(pidfd) = pidfd else { return Ok(()) };
    let timeout = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
        Ok(0) => Err(Error::new(Kind::TimedOut, "the container's process does not die")
            .hint("it may wait for a device or a network filesystem")),
        _ => Ok(()),
    }
}
