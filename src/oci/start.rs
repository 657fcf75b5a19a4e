//! `start`: runs the payload of a created container.

use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};

use super::Runtime;
use super::create::{await_payload, short_address};
use super::lifecycle::{Event, Status};
use crate::error::{Doing, Result};
use crate::id::ContainerId;
use crate::launch::hooks;
use crate::record::{ContainerState, Layout, Lock};

/// Starts a created container and runs its poststart hooks.
///
/// # Errors
/// `WrongState` when the container's status is not created; the payload cannot be executed; a hook fails.
pub fn start(runtime: &Runtime, id: &ContainerId) -> Result<()> {
    let layout = Layout::new(&runtime.root, id);
    let _lock = Lock::take(&layout)?;
    let state = ContainerState::load(&layout)?;
    Status::of(&state, &layout)?.admits(Event::Start)?;
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .doing(|| "make a socket")?;
    let (address, _directory) = short_address(&layout)?;
    connect(&socket, &address).doing(|| "reach the container's first process")?;
    let _ = std::fs::remove_file(layout.start_socket());
    await_payload(&socket)?;
    poststart(&state)
}

/// Runs the poststart hooks. A failing one is a warning, and the others still run: SPEC(runtime 1.2 #lifecycle).
pub(super) fn poststart(state: &ContainerState) -> Result<()> {
    let list = state.coracle.hooks.as_ref().and_then(|h| h.poststart().as_ref());
    let Some(list) = list.filter(|l| !l.is_empty()) else { return Ok(()) };
    let text = serde_json::to_string(&state.public("running")).doing(|| "write the state")?;
    for hook in list {
        if let Err(error) = hooks::run("poststart", std::slice::from_ref(hook), &text) {
            crate::log::warning(&error.chain());
        }
    }
    Ok(())
}
