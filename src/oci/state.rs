//! `state`: the state of one container or of all.

use super::Runtime;
use super::lifecycle::Status;
use crate::error::{Error, Kind, Result};
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
    // What cannot be read, because it is damaged or of another release, is as good as an end that nobody saw.
    let exit = match status {
        Status::Stopped => Exit::load_of(&layout, &state).unwrap_or_else(|_| Some(Exit::unknown())),
        _ => None,
    };
    Ok(PublicState { exit, ..state.public(&status.to_string()) })
}

/// The public states of all containers, and why the state of the others cannot be told. One that is deleted meanwhile is
/// left out.
///
/// # Errors
/// The root cannot be read.
pub fn list(runtime: &Runtime) -> Result<(Vec<PublicState>, Vec<Error>)> {
    let (mut states, mut unknown) = (Vec::new(), Vec::new());
    for id in ids(&runtime.root)? {
        match state(runtime, &id) {
            Ok(state) => states.push(state),
            Err(error) if error.kind() == Kind::NotFound => {}
            Err(error) => unknown.push(error.doing(format!("determine the state of container {id}"))),
        }
    }
    Ok((states, unknown))
}
