//! Sending a seccomp listener to the agent that `linux.seccomp.listenerPath` names.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;

use super::wire;
use crate::error::{Doing, Result};
use crate::seccomp::Listener;

/// Connects to the agent and sends it the listener with the process's state. SPEC(runtime 1.2 #containerprocessstate)
///
/// # Errors
/// The agent does not listen, or closes the connection.
pub(super) fn hand_over(target: Option<&Listener>, fd: OwnedFd, pid: i32) -> Result<()> {
    let Some(target) = target else { return Ok(()) };
    let state = serde_json::json!({
        "ociVersion": "1.2.0",
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": target.metadata,
        "state": { "ociVersion": "1.2.0", "id": "", "status": "creating", "pid": pid, "bundle": "" },
    });
    let doing = || format!("send the seccomp listener to {}", target.path.display());
    let socket = UnixStream::connect(&target.path).doing(doing)?;
    wire::send_fd(socket.as_fd(), state.to_string().as_bytes(), fd.as_fd()).doing(doing)
}
