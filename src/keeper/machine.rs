//! A container's life with the keeper, as a table: state and event in, next state and actions out. Nothing here touches
//! anything, so the whole table is tested as data.
//!
//! The process that asks for a launch attends it until it says [`Event::Keep`]: it may still find fault (a hook fails, the
//! program is not there), and then the container never was. Should it die before it says so, the container is kept.

use serde::{Deserialize, Serialize};

/// Where a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum State {
    /// The launcher was started; there is no first process yet.
    Launching,
    /// Its first process lives; whoever asked for it has not said yet that it is to stay.
    Attended,
    /// Its first process lives.
    Kept,
    /// Its first process has ended before its launch was said to be good.
    EndedEarly,
    /// Whoever asked for it has given it up: its first process is being killed.
    GivenUp,
    /// Nothing is left of it here.
    Gone,
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// The launcher says which process is the first.
    Born,
    /// The launcher ended without one.
    Unborn,
    /// It goes on as a forked copy, which is its first process from now on.
    Forked,
    /// Its first process has ended.
    Ended,
    /// The launch was good.
    Keep,
    /// The launch was not.
    GiveUp,
    /// Whoever asked for it is gone.
    Unattended,
}

/// What is done then, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    /// Write the record by which a later keeper finds it, and give the heir its descriptors.
    Record,
    /// Tell whoever asked for it about its first process.
    Answer,
    /// Tell whoever asked for it that there is none.
    Refuse,
    /// Read how its first process ended, and whether for want of memory.
    ReadExit,
    /// Log what it has written and was not read yet.
    Drain,
    /// Write how it ended where that was asked for.
    WriteExit,
    /// Tell those who wait for its end, and those attached to it.
    Tell,
    /// Run the command that was given for its end.
    Command,
    /// Let go of its streams, its record and its directory.
    Forget,
}

/// The table.
pub(super) fn step(state: State, event: Event) -> (State, &'static [Action]) {
    use Action as A;
    use Event as E;
    use State as S;
    match (state, event) {
        (S::Launching, E::Born) => (S::Attended, &[A::Record, A::Answer]),
        (S::Launching, E::Unborn) => (S::Gone, &[A::Refuse, A::Forget]),
        // What it was to be told is for nobody; the child finds its end of the socket closed and ends.
        (S::Launching, E::Unattended) => (S::Launching, &[]),

        (S::Attended, E::Forked) => (S::Attended, &[A::Record, A::Answer]),
        (S::Attended, E::Keep | E::Unattended) => (S::Kept, &[]),
        (S::Attended, E::GiveUp) => (S::GivenUp, &[]),
        (S::Attended, E::Ended) => (S::EndedEarly, &[A::ReadExit, A::Drain]),

        (S::Kept, E::Ended) => {
            (S::Gone, &[A::ReadExit, A::Drain, A::WriteExit, A::Tell, A::Command, A::Forget])
        }
        (S::EndedEarly, E::Keep | E::Unattended) => {
            (S::Gone, &[A::WriteExit, A::Tell, A::Command, A::Forget])
        }
        (S::EndedEarly, E::GiveUp) => (S::Gone, &[A::Forget]),
        (S::GivenUp, E::Ended) => (S::Gone, &[A::Forget]),

        // What was said twice, or too late, changes nothing.
        (S::Launching, E::Ended | E::Keep | E::GiveUp | E::Forked) => (S::Launching, &[]),
        (S::Attended, E::Born | E::Unborn) => (S::Attended, &[]),
        (S::Kept, E::Born | E::Unborn | E::Forked | E::Keep | E::GiveUp | E::Unattended) => (S::Kept, &[]),
        (S::EndedEarly, E::Born | E::Unborn | E::Forked | E::Ended) => (S::EndedEarly, &[]),
        (S::GivenUp, E::Born | E::Unborn | E::Forked | E::Keep | E::GiveUp | E::Unattended) => {
            (S::GivenUp, &[])
        }
        (S::Gone, E::Born | E::Unborn | E::Forked | E::Ended | E::Keep | E::GiveUp | E::Unattended) => {
            (S::Gone, &[])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Action::*;
    use Event::{Born, Ended, Forked, GiveUp, Keep, Unattended, Unborn};

    fn run(events: &[Event]) -> (State, Vec<Action>) {
        events.iter().fold((State::Launching, Vec::new()), |(state, mut all), event| {
            let (next, actions) = step(state, *event);
            all.extend(actions);
            (next, all)
        })
    }

    #[test]
    fn whole_lives() {
        let end = [ReadExit, Drain, WriteExit, Tell, Command, Forget];
        let born = [Record, Answer];
        let expected = |more: &[Action]| (State::Gone, [&born[..], more].concat());
        assert_eq!(run(&[Born, Keep, Ended]), expected(&end), "as it should be");
        let forked = [Record, Answer, Record, Answer];
        assert_eq!(run(&[Born, Forked, Keep, Ended]), (State::Gone, [&forked[..], &end].concat()), "a copy");
        assert_eq!(run(&[Born, Unattended, Ended]), expected(&end), "the client died");
        assert_eq!(run(&[Born, Ended, Keep]), expected(&end), "a payload that ends at once");
        assert_eq!(run(&[Born, Ended, Unattended]), expected(&end), "it, and its client, at once");
        assert_eq!(run(&[Born, GiveUp, Ended]), expected(&[Forget]), "given up and killed");
        assert_eq!(run(&[Born, Ended, GiveUp]), expected(&[ReadExit, Drain, Forget]), "it failed by itself");
        assert_eq!(run(&[Unborn]), (State::Gone, vec![Refuse, Forget]), "no process was made");
    }

    #[test]
    fn how_it_ended_is_told_once_and_only_when_it_is_known() {
        const ALL: [Event; 7] = [Born, Unborn, Forked, Ended, Keep, GiveUp, Unattended];
        // Every sequence of five events.
        for number in 0..ALL.len().pow(5) {
            let events: Vec<Event> = (0..5_u32).map(|d| ALL[number / ALL.len().pow(d) % ALL.len()]).collect();
            let (state, actions) = run(&events);
            let count = |wanted: Action| actions.iter().filter(|a| **a == wanted).count();
            let place = |wanted: Action| actions.iter().position(|a| *a == wanted);
            assert!(count(Forget) <= 1, "{events:?}");
            assert!(count(Tell) <= 1 && count(Command) <= 1 && count(WriteExit) <= 1, "{events:?}");
            assert_eq!(count(Forget) == 1, state == State::Gone, "{events:?}");
            if let Some(told) = place(Tell) {
                assert!(place(ReadExit).is_some_and(|read| read < told), "{events:?}");
                assert!(place(WriteExit).is_some_and(|written| written < told), "{events:?}");
            }
            if let Some(recorded) = place(Record) {
                assert!(place(Answer).is_some_and(|answered| recorded < answered), "{events:?}");
            }
        }
    }
}
