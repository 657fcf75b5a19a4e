//! `state`: the state of one container or of all.

use super::Runtime;
use super::lifecycle::Status;
use crate::error::Result;
use crate::id::ContainerId;
use crate::record::{ContainerState, Exit, Layout, PublicState, ids};

/// The public state of one container.
///
/// # Errors
/// `NotFound` when there is none of that id.
pub fn state(runtime: &Runtime, id: &ContainerId) -> Result<PublicState> {
    let layout = Layout::new(&runtime.root, id);
    let state = ContainerState::load(&layout)?;
    let status = Status::of(&state, &layout)?;
    let exit = if status == Status::Stopped { Exit::load(&layout)? } else { None };
    Ok(PublicState { exit, ..state.public(&status.to_string()) })
}

/// The public states of all containers. One that is deleted meanwhile, or whose record is damaged, is left out.
///
/// # Errors
/// The root cannot be read.
pub fn list(runtime: &Runtime) -> Result<Vec<PublicState>> {
    Ok(ids(&runtime.root)?.iter().filter_map(|id| state(runtime, id).ok()).collect())
}
