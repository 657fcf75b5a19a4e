//! `events`: what a container uses, time and again, and each kill for want of memory, until its end.

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

/// How soon after the wake-up a kill is in the count.
const COUNTED_WITHIN: Duration = Duration::from_millis(20);

/// One thing that is told of a container.
#[derive(Debug)]
pub enum ContainerEvent {
    /// What it uses; once in every interval.
    Use(Box<Stats>),
    /// A process of it was killed because its memory limit was met.
    OutOfMemory,
}

/// Tells of a container until it ends, at once and then every `interval`, and of each kill when it happens.
///
/// # Errors
/// `WrongState` when it does not run; `tell` fails.
pub fn follow(
    runtime: &Runtime,
    id: &ContainerId,
    interval: Duration,
    mut tell: impl FnMut(&ContainerEvent) -> Result<()>,
) -> Result<()> {
    let layout = Layout::new(&runtime.root, id);
    let state = ContainerState::load(&layout)?;
    let process = super::kill::open_init(&state)?;
    Status::of(&state, &layout)?.admits(Event::Ps)?;
    let process = process.ok_or_else(|| Error::new(Kind::WrongState, "the container has ended"))?;
    let group = Group::from_paths(&state.cgroup_paths)?;
    let memory = group.watch_memory()?;
    let mut kills = Kills { told: group.oom_kills()? };
    let mut next = Instant::now();
    loop {
        if Instant::now() >= next {
            next += interval;
            match group.stats() {
                Ok(stats) => tell(&ContainerEvent::Use(Box::new(stats)))?,
                Err(error) if error.kind() == Kind::NotFound => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        let (ended, memory_met) = wait(process.as_fd(), memory.as_ref().map(AsFd::as_fd), next)?;
        if memory_met && !kills.tell(&group, &mut tell)? {
            // v1 wakes us before it counts.
            std::thread::sleep(COUNTED_WITHIN);
        }
        kills.tell(&group, &mut tell)?;
        if ended {
            return Ok(());
        }
    }
}

/// The kills that were told of.
struct Kills {
    told: u64,
}

impl Kills {
    /// Tells of those that came since; whether there were any.
    fn tell(&mut self, group: &Group, tell: &mut impl FnMut(&ContainerEvent) -> Result<()>) -> Result<bool> {
        let now = match group.oom_kills() {
            Err(error) if error.kind() == Kind::NotFound => return Ok(false),
            other => other?,
        };
        let new = self.told..now;
        self.told = now;
        for _ in new.clone() {
            tell(&ContainerEvent::OutOfMemory)?;
        }
        Ok(!new.is_empty())
    }
}

/// Waits until the process ends, something happens to the memory, or `deadline`; whether it was the first or the second.
fn wait(process: BorrowedFd<'_>, memory: Option<BorrowedFd<'_>>, deadline: Instant) -> Result<(bool, bool)> {
    let left = deadline.saturating_duration_since(Instant::now());
    let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
    let mut polled = vec![PollFd::from_borrowed_fd(process, PollFlags::IN)];
    polled.extend(memory.map(|memory| PollFd::from_borrowed_fd(memory, PollFlags::IN)));
    match poll(&mut polled, Some(&left)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(errno).doing(|| "wait for the container"),
    }
    let happened = polled.get(1).is_some_and(|fd| !fd.revents().is_empty());
    if let Some(memory) = memory.filter(|_| happened) {
        // Only taken off: what happened is in the cgroup's files.
        let _ = rustix::io::read(memory, &mut [0; 4096]);
    }
    Ok((!polled[0].revents().is_empty(), happened))
}
