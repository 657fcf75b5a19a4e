//! `run`: creates and starts a container, waits until it ends and deletes it; with `detach` it returns after the
//! start.

use std::os::fd::OwnedFd;

use oci_spec::runtime::Spec;

use super::create::{CreateOptions, StartMode, connect_console, make};
use super::{Runtime, delete, foreground, start};
use crate::error::{Doing, Kind, Result};
use crate::id::ContainerId;
use crate::record::{Layout, Lock};

/// Options of running a container.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Options of the create.
    pub create: CreateOptions,
    /// Return after the start.
    pub detach: bool,
    /// Do not delete the stopped container.
    pub keep: bool,
}

/// Runs a container. Returns the payload's exit code, 128 + the signal that ended it, or 0 when detached.
///
/// # Errors
/// As `create` and `start`; nothing is left behind then.
pub fn run(runtime: &Runtime, id: &ContainerId, spec: &Spec, options: &RunOptions) -> Result<i32> {
    let terminal = spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false);
    let proxied = terminal && !options.detach && options.create.console_socket.is_none();
    let mut sized = None;
    if proxied && let Some(process) = spec.process() {
        let mut process = process.clone();
        foreground::inherit_terminal_size(&mut process);
        sized.insert(spec.clone()).set_process(Some(process));
    }
    let spec = sized.as_ref().unwrap_or(spec);
    let (ours, console) = if proxied {
        let (ours, theirs) = foreground::console_pair()?;
        (Some(ours), Some(theirs))
    } else {
        (None, connect_console(spec, options.create.console_socket.as_deref())?)
    };
    // Block signals before the process exists, so that none gets lost.
    let signals = (!options.detach).then(crate::sys::signal::capture_all).transpose();
    let signals = signals.doing(|| "wait for signals")?;
    let made = make(runtime, id, spec, &options.create, StartMode::AtOnce, console)?;
    start::poststart(&made.state)?;
    drop(made.lock);
    let Some(signals) = signals else { return Ok(0) };
    let master = ours.map(|ours| foreground::receive_master(&ours)).transpose();
    let ended = master.and_then(|master| foreground::proxy_until_exit(&made.process, &signals, master));
    if !options.keep {
        clean_up(&made.layout)?;
    }
    ended
}

/// Runs a container as a child of the keeper (`create.parent`), which attends it from then on; `console` is the end
/// of a socket pair that receives its terminal.
///
/// # Errors
/// As [`run`].
pub fn run_in_keeper(
    runtime: &Runtime,
    id: &ContainerId,
    spec: &Spec,
    create: &CreateOptions,
    console: Option<OwnedFd>,
) -> Result<()> {
    let made = make(runtime, id, spec, create, StartMode::AtOnce, console)?;
    start::poststart(&made.state)
}

/// Deletes the container that has ended, unless another verb did.
fn clean_up(layout: &Layout) -> Result<()> {
    let _lock = match Lock::take(layout) {
        Err(e) if e.kind() == Kind::NotFound => return Ok(()),
        other => other?,
    };
    let state = crate::record::ContainerState::load(layout)?;
    delete::remove(layout, &state)
}
