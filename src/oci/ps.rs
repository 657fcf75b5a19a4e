//! `ps`, `update` and `events --stats`: read and change a container's cgroup.

use oci_spec::runtime::LinuxResources;

use super::Runtime;
use super::lifecycle::{Event, Status};
use crate::cgroup::{Group, Stats};
use crate::error::Result;
use crate::id::ContainerId;
use crate::record::{ContainerState, Layout, Lock};

/// The pids of all processes of a container.
///
/// # Errors
/// `WrongState` when it does not run.
pub fn pids(runtime: &Runtime, id: &ContainerId) -> Result<Vec<i32>> {
    group(runtime, id, Event::Ps)?.pids()
}

/// The resource usage of a container.
///
/// # Errors
/// `WrongState` when it does not run.
pub fn stats(runtime: &Runtime, id: &ContainerId) -> Result<Stats> {
    group(runtime, id, Event::Ps)?.stats()
}

/// Changes the limits of a container.
///
/// # Errors
/// `WrongState` when it does not run; the kernel refuses a limit.
pub fn update(runtime: &Runtime, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
    let _lock = Lock::take(&Layout::new(&runtime.root, id))?;
    group(runtime, id, Event::Update)?.update(resources)
}

/// The same for the container of a pod: limits of optional controllers that are absent are left out.
///
/// # Errors
/// As [`update`].
pub fn update_in_pod(runtime: &Runtime, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
    let _lock = Lock::take(&Layout::new(&runtime.root, id))?;
    group(runtime, id, Event::Update)?.update_tolerantly(resources)
}

fn group(runtime: &Runtime, id: &ContainerId, event: Event) -> Result<Group> {
    let layout = Layout::new(&runtime.root, id);
    let state = ContainerState::load(&layout)?;
    Status::of(&state, &layout)?.admits(event)?;
    Group::from_paths(&state.cgroup_paths)
}
