//! `events`: reports a container's resource usage periodically, and each OOM kill, until the container ends.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::Runtime;
use super::lifecycle::{Event, Status};
use crate::cgroup::{Group, Stats};
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::record::{ContainerState, Layout};

/// How long after the wake-up a kill takes to appear in the count.
const COUNTED_WITHIN: Duration = Duration::from_millis(20);

/// An event of a container.
#[derive(Debug)]
pub enum ContainerEvent {
    /// The resource usage, reported once per interval.
    Use(Box<Stats>),
    /// A process was killed because the container reached its memory limit.
    OutOfMemory,
}

/// Reports usage immediately and then every `interval`, and each OOM kill when it happens, until the container ends.
///
/// # Errors
/// `WrongState` when the container does not run; the errors of `report`.
pub fn follow(
    runtime: &Runtime,
    id: &ContainerId,
    interval: Duration,
    mut report: impl FnMut(&ContainerEvent) -> Result<()>,
) -> Result<()> {
    let layout = Layout::new(&runtime.root, id);
    let state = ContainerState::load(&layout)?;
    let process = super::kill::open_init(&state)?;
    Status::of(&state, &layout)?.admits(Event::Ps)?;
    let process = process.ok_or_else(|| Error::new(Kind::WrongState, "the container has ended"))?;
    let group = Group::from_paths(&state.cgroup_paths)?;
    let memory = group.watch_memory()?;
    let mut kills = Kills { reported: group.oom_kills()? };
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            next += interval;
            match group.stats() {
                Ok(stats) => report(&ContainerEvent::Use(Box::new(stats)))?,
                Err(error) if error.kind() == Kind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let (ended, memory_met) = wait(process.as_fd(), memory.as_ref().map(AsFd::as_fd), next)?;
        if memory_met && !kills.report_new(&group, &mut report)? {
            // cgroup v1 notifies before it counts the kill.
            std::thread::sleep(COUNTED_WITHIN);
        }
        kills.report_new(&group, &mut report)?;
        if ended {
            return Ok(());
        }
    }
}

/// The OOM kills reported so far.
struct Kills {
    reported: u64,
}

impl Kills {
    /// Reports the kills since the last call; returns whether there were any.
    fn report_new(
        &mut self,
        group: &Group,
        report: &mut impl FnMut(&ContainerEvent) -> Result<()>,
    ) -> Result<bool> {
        let now = match group.oom_kills() {
            Err(error) if error.kind() == Kind::NotFound => return Ok(false),
            other => other?,
        };
        let new = self.reported..now;
        self.reported = now;
        for _ in new.clone() {
            report(&ContainerEvent::OutOfMemory)?;
        }
        Ok(!new.is_empty())
    }
}

/// Waits for the end of the process, a memory event, or `deadline`; returns whether the process ended and whether a
/// memory event arrived.
fn wait(process: BorrowedFd<'_>, memory: Option<BorrowedFd<'_>>, deadline: Instant) -> Result<(bool, bool)> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    let mut polled = vec![PollFd::from_borrowed_fd(process, PollFlags::IN)];
    polled.extend(memory.map(|memory| PollFd::from_borrowed_fd(memory, PollFlags::IN)));
    match poll(&mut polled, Some(&left)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno).doing(|| "wait for the container"),
    }
    let memory_event = polled.get(1).is_some_and(|fd| !fd.revents().is_empty());
    if let Some(memory) = memory.filter(|_| memory_event) {
        // Only drain the notification; the details are in the cgroup's files.
        let _ = rustix::io::read(memory, &mut [0; 4096]);
    }
    Ok((!polled[0].revents().is_empty(), memory_event))
}
