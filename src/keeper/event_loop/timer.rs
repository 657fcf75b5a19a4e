//! Deadlines and retries of containers whose launch is not decided.

use std::time::{Duration, Instant};

use super::Keeper;
use super::container::Container;
use super::life::{Event, Ran, State};

/// How long a launcher may take: it reads a plan and clones.
const LAUNCH_LIMIT: Duration = Duration::from_secs(30);

/// How long a process may take to execute its program once its client is gone. A process that still waits for the client ends
/// by itself, so one that takes longer was stopped.
const ORPHAN_LIMIT: Duration = Duration::from_secs(10);

/// How long the client of another keeper may take until it comes back: as long as the set-up of a process may take, hooks
/// included.
const RETURN_LIMIT: Duration = Duration::from_secs(15 * 60);

/// The same, once the process has ended, which the client sees at once.
const REPORT_LIMIT: Duration = Duration::from_secs(5);

/// The first and the longest pause between two checks whether the program was executed.
const FIRST_LOOK: Duration = Duration::from_millis(5);
const LAST_LOOK: Duration = Duration::from_secs(1);

/// See the module's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::keeper) struct Timer {
    next: Instant,
    pause: Duration,
    until: Instant,
}

impl Timer {
    /// What a container that has come into this state waits for.
    pub(in crate::keeper) fn of(state: State) -> Option<Self> {
        match state {
            State::Launching | State::Void => Some(Self::once(LAUNCH_LIMIT)),
            State::Unattended => Some(Self::again_and_again(ORPHAN_LIMIT)),
            State::EndedEarly(Ran::Unknown) => Some(Self::once(REPORT_LIMIT)),
            State::Attended | State::Kept | State::EndedEarly(_) | State::GivenUp | State::Gone => None,
        }
    }

    /// Of a container whose client may not know yet that its keeper was killed.
    pub(in crate::keeper) fn of_adopted(state: State) -> Option<Self> {
        match state {
            State::Unattended => Some(Self::again_and_again(RETURN_LIMIT)),
            other => Self::of(other),
        }
    }

    fn once(limit: Duration) -> Self {
        let until = Instant::now() + limit;
        Self { next: until, pause: limit, until }
    }

    fn again_and_again(limit: Duration) -> Self {
        let now = Instant::now();
        Self { next: now + FIRST_LOOK, pause: FIRST_LOOK, until: now + limit }
    }

    fn later(self, now: Instant) -> Self {
        let pause = (self.pause * 2).min(LAST_LOOK);
        Self { next: (now + pause).min(self.until), pause, ..self }
    }
}

impl Keeper {
    /// How long nothing has to be looked at.
    pub(in crate::keeper) fn left_of_timers(&self) -> Option<Duration> {
        let next =
            self.containers.values().filter_map(|container| container.timer).map(|timer| timer.next).min();
        next.map(|next| next.saturating_duration_since(Instant::now()))
    }

    /// Looks at those whose time has come.
    pub(in crate::keeper) fn look_at_timers(&mut self) {
        let now = Instant::now();
        let is_due = |container: &Container| container.timer.is_some_and(|timer| timer.next <= now);
        let due: Vec<u32> =
            self.containers.iter().filter(|(_, container)| is_due(container)).map(|(key, _)| *key).collect();
        for key in due {
            self.look_at(key, now);
        }
    }

    fn look_at(&mut self, key: u32, now: Instant) {
        let Some(container) = self.containers.get_mut(&key) else { return };
        let Some(timer) = container.timer else { return };
        let event = match container.state {
            State::Unattended if container.record.ran() == Ran::Yes => Event::Executed,
            _ if now >= timer.until => Event::Late,
            _ => {
                container.timer = Some(timer.later(now));
                return;
            }
        };
        if event == Event::Late && container.has_failed_set_up() {
            container.state = State::EndedEarly(Ran::No);
        }
        self.apply(key, event);
    }
}

impl Container {
    /// Whether it is more likely than not that its program was never executed, where nobody knows: its client was killed
    /// together with its keeper, and a set-up that finds its client gone ends with the code 1. If it was the program that
    /// ended so, it is run a second time, which is better than not at all.
    fn has_failed_set_up(&self) -> bool {
        let ended_so = self.exit.is_some_and(|exit| exit.code == 1 && exit.signal.is_none() && !exit.unknown);
        self.state == State::EndedEarly(Ran::Unknown) && ended_so
    }
}
