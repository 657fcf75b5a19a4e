//! The life cycle of a pod's container as a table from state and event to the next state.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The state of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Created, never started.
    Created,
    /// Being started.
    Starting,
    /// Its process is running.
    Running,
    /// Its process has exited, or could not be started.
    Exited,
    /// Being removed, or removed.
    Gone,
}

/// An event in the life of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// StartContainer was called.
    Start,
    /// Its process is running.
    Started,
    /// The start failed.
    Failed,
    /// Its process has exited.
    Ended,
    /// RemoveContainer was called.
    Remove,
}

/// The next state; `None` when the event is not allowed now.
pub fn step(state: State, event: Event) -> Option<State> {
    use Event as E;
    use State as S;
    match (state, event) {
        (S::Created, E::Start) => Some(S::Starting),
        (S::Created, E::Remove) => Some(S::Gone),
        // Recovery found it running: the daemon was killed before it recorded the start.
        (S::Created, E::Started) => Some(S::Running),
        (S::Created, E::Failed | E::Ended) => Some(S::Exited),

        (S::Starting, E::Started) => Some(S::Running),
        (S::Starting, E::Failed | E::Ended) => Some(S::Exited),
        (S::Starting, E::Start | E::Remove) => None,

        (S::Running, E::Ended) => Some(S::Exited),
        (S::Running, E::Started | E::Failed) => Some(S::Running),
        (S::Running, E::Start | E::Remove) => None,

        (S::Exited, E::Remove) => Some(S::Gone),
        // The exit may be reported before the start, or twice.
        (S::Exited, E::Started | E::Failed | E::Ended) => Some(S::Exited),
        (S::Exited, E::Start) => None,

        (S::Gone, E::Started | E::Failed | E::Ended | E::Remove) => Some(S::Gone),
        (S::Gone, E::Start) => None,
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Starting => "being started",
            Self::Running => "running",
            Self::Exited => "exited",
            Self::Gone => "removed",
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Started => "see the start of",
            Self::Failed => "see the failure of",
            Self::Ended => "see the end of",
            Self::Remove => "remove",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Event::{Ended, Failed, Remove, Start, Started};

    const EVENTS: [Event; 5] = [Start, Started, Failed, Ended, Remove];

    fn run(events: &[Event]) -> Option<State> {
        events.iter().try_fold(State::Created, |state, event| step(state, *event))
    }

    #[test]
    fn whole_lives() {
        assert_eq!(run(&[Start, Started, Ended, Remove]), Some(State::Gone), "as it should be");
        assert_eq!(run(&[Start, Ended, Started]), Some(State::Exited), "it ended at once");
        assert_eq!(run(&[Start, Failed, Remove]), Some(State::Gone), "it could not be started");
        assert_eq!(run(&[Remove]), Some(State::Gone), "never started");
        assert_eq!(run(&[Start, Started, Start]), None, "starting is no repetition");
        assert_eq!(run(&[Start, Started, Remove]), None, "what runs is ended first");
    }

    #[test]
    fn nothing_comes_back_to_life() {
        for event in EVENTS {
            assert!(matches!(step(State::Gone, event), Some(State::Gone) | None));
            assert!(!matches!(
                step(State::Exited, event),
                Some(State::Running | State::Starting | State::Created)
            ));
        }
    }
}
