//! `pause` and `resume`.

use super::Runtime;
use super::lifecycle::{Event, Status};
use crate::cgroup::Group;
use crate::error::Result;
use crate::id::ContainerId;
use crate::record::{ContainerState, Layout, Lock};

/// Freezes all processes of a container.
///
/// # Errors
/// `WrongState` when it does not run.
pub fn pause(runtime: &Runtime, id: &ContainerId) -> Result<()> {
    group_of(runtime, id, Event::Pause, Group::freeze)
}

/// Thaws all processes of a container.
///
/// # Errors
/// `WrongState` when it is not paused.
pub fn resume(runtime: &Runtime, id: &ContainerId) -> Result<()> {
    group_of(runtime, id, Event::Resume, Group::thaw)
}

fn group_of(runtime: &Runtime, id: &ContainerId, event: Event, act: fn(&Group) -> Result<()>) -> Result<()> {
    let layout = Layout::new(&runtime.root, id);
    let _lock = Lock::take(&layout)?;
    let state = ContainerState::load(&layout)?;
    Status::of(&state, &layout)?.admits(event)?;
    act(&Group::from_paths(&state.cgroup_paths)?)
}
