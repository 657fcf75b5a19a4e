//! `stop`: sends a container its stop signal, then SIGKILL.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Runtime;
use super::lifecycle::Status;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::record::{ContainerState, Layout};

/// The annotation with the stop signal of an image. SPEC(image 1.1 #conversion)
pub const STOP_SIGNAL: &str = "org.opencontainers.image.stopSignal";

/// How long to wait for a killed process to end.
const LAST: Duration = Duration::from_secs(10);

/// Stops a container: sends the signal that `choose` picks from its annotations, and SIGKILL after `grace`. A
/// container that has stopped already is no error. Returns whether it ended before SIGKILL.
///
/// # Errors
/// `NotFound` when there is none; `TimedOut` when even SIGKILL does not end it.
pub fn stop(
    runtime: &Runtime,
    id: &ContainerId,
    grace: Duration,
    choose: impl FnOnce(Option<&str>) -> i32,
) -> Result<bool> {
    let layout = Layout::new(&runtime.root, id);
    let state = ContainerState::load(&layout)?;
    let (Some(pidfd), false) =
        (super::kill::open_init(&state)?, Status::of(&state, &layout)? == Status::Stopped)
    else {
        return Ok(true);
    };
    let asks = choose(state.coracle.annotations.get(STOP_SIGNAL).map(String::as_str));
    for (signal, patience) in [(asks, grace), (libc::SIGKILL, LAST)] {
        match super::kill::kill(runtime, id, signal, false) {
            // The container has just ended, or another verb has removed it.
            Err(e) if matches!(e.kind(), Kind::WrongState | Kind::NotFound) => return Ok(true),
            other => other?,
        }
        if has_ended(&pidfd, patience)? {
            return Ok(signal != libc::SIGKILL);
        }
    }
    Err(Error::new(Kind::TimedOut, "the container's process does not die")
        .hint("it may wait for a device or a network filesystem"))
}

fn has_ended(pidfd: &impl std::os::fd::AsFd, patience: Duration) -> Result<bool> {
    let deadline = Instant::now() + patience;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Err(rustix::io::Errno::INTR) => {}
            other => return other.map(|count| count > 0).doing(|| "wait for the container"),
        }
    }
}
