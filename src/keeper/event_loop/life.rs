//! A container's life with the keeper, as a table: state and event in, next state and actions out. Nothing here touches
//! anything, so the whole table is tested as data.
//!
//! The process that asks for a launch attends it until it says [`Event::Keep`]: it may still find fault (a hook fails, the
//! program is not there), and then the container never was.
//!
//! Client and keeper may be killed at any moment. What becomes of a launch that this interrupts:
//!
//! | killed | at | what the other one finds |
//! |---|---|---|
//! | keeper | before it reads the request | nothing was made; the client launches anew |
//! | keeper | while its launcher clones | the standby hears the launcher ([`State::Void`]), kills the clone, and then tells the client that there is none; the client launches anew |
//! | keeper | after the record was written | the standby has the record ([`State::Unattended`]); the client asks for its container ([`Event::Resumed`]) and goes on |
//! | keeper | after the client has said Keep | the record says so; the client asks again, which changes nothing |
//! | keeper | when the process has ended | the standby reads how, as far as the kernel tells ([`Ran::Unknown`]: not whether the program ran) |
//! | client | before it lets the process go on | the process finds its socket closed and ends; it has executed nothing, so the container never was ([`Ran::No`]) |
//! | client | while the process is about to execute | [`State::Unattended`]: kept once it executes, forgotten when it ends before that, killed when it does neither in time |
//! | client | after the execution | as if it had said Keep ([`Event::Executed`]) |
//!
//! Whether a process has executed something is the kernel's to tell (`PF_FORKNOEXEC`), until somebody else has reaped it.
//! A new daemon asks what became of its predecessor's launches (`Settle`), and gets the answer once that is decided.

use serde::{Deserialize, Serialize};

/// Where a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::keeper) enum State {
    /// The launcher was started; there is no first process yet.
    Launching,
    /// The launcher is that of a keeper that was killed: what it makes is killed.
    Void,
    /// Its first process lives; whoever asked for it has not said yet that it is to stay.
    Attended,
    /// Its first process lives; whoever asked for it is gone, or has not come back to this keeper yet.
    Unattended,
    /// Its first process lives.
    Kept,
    /// Its first process has ended before its launch was said to be good.
    EndedEarly(Ran),
    /// Whoever asked for it has given it up: its first process is being killed.
    GivenUp,
    /// Nothing is left of it here.
    Gone,
}

/// Whether a process that has ended had executed the container's program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::keeper) enum Ran {
    /// It had.
    Yes,
    /// It ended before that.
    No,
    /// Its parent reaped it, which is not this process.
    Unknown,
}

/// What happens to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::keeper) enum Event {
    /// The launcher says which process is the first.
    Spawned,
    /// The launcher ended without one.
    NotSpawned,
    /// It goes on as a forked copy, which is its first process from now on.
    Forked,
    /// Its first process was seen to have executed the program.
    Executed,
    /// Its first process has ended.
    Ended(Ran),
    /// The launch was good.
    Keep,
    /// The launch was not.
    GiveUp,
    /// Whoever asked for it is gone.
    Unattended,
    /// Whoever asked for it is back.
    Resumed,
    /// It has been undecided for too long.
    Late,
}

/// What is done then, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::keeper) enum Action {
    /// Write the record by which a later keeper finds it, and give the standby its descriptors.
    Record,
    /// Tell whoever asked for it about its first process.
    Answer,
    /// Tell whoever asked for it that there is none.
    Refuse,
    /// Kill the launcher.
    KillLauncher,
    /// Kill its first process.
    Kill,
    /// Tell those who wait for a decision that it is here to stay.
    Settle,
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
    /// Let go of its streams, its record and its directory; who waits for a decision hears that there is none of it.
    Forget,
}

/// The table.
#[expect(clippy::too_many_lines, reason = "a table: one line for each pair")]
pub(in crate::keeper) fn step(state: State, event: Event) -> (State, &'static [Action]) {
    use Action as A;
    use Event as E;
    use State as S;
    match (state, event) {
        (S::Launching, E::Spawned) => (S::Attended, &[A::Record, A::Answer]),
        (S::Launching, E::NotSpawned) => (S::Gone, &[A::Refuse, A::Forget]),
        // Nobody waits for the answer; the child finds its end of the socket closed and ends.
        (S::Launching, E::Unattended) => (S::Launching, &[]),
        (S::Launching, E::Late) => (S::Launching, &[A::KillLauncher]),

        (S::Void, E::Spawned) => (S::GivenUp, &[A::Kill]),
        (S::Void, E::NotSpawned) => (S::Gone, &[A::Forget]),
        (S::Void, E::Late) => (S::Void, &[A::KillLauncher]),

        (S::Attended, E::Forked) => (S::Attended, &[A::Record, A::Answer]),
        (S::Attended, E::Keep) => (S::Kept, &[A::Record, A::Settle]),
        (S::Attended, E::Unattended) => (S::Unattended, &[]),
        (S::Attended, E::GiveUp) => (S::GivenUp, &[A::Kill]),
        (S::Attended | S::Unattended, E::Ended(ran)) => match (state, ran) {
            // Who attends it decides, and who is not back yet may.
            (S::Attended, _) | (_, Ran::Unknown) => (S::EndedEarly(ran), &[A::ReadExit, A::Drain]),
            (_, Ran::Yes) => (S::Gone, ENDED),
            (_, Ran::No) => (S::Gone, &[A::Forget]),
        },

        (S::Unattended, E::Resumed) => (S::Attended, &[A::Answer]),
        (S::Unattended, E::Executed | E::Keep) => (S::Kept, &[A::Record, A::Settle]),
        (S::Unattended, E::GiveUp | E::Late) => (S::GivenUp, &[A::Kill]),

        (S::Kept, E::Ended(_)) => (S::Gone, ENDED),
        // It comes back to say what is known already.
        (S::Kept, E::Resumed) => (S::Kept, &[A::Answer]),

        (S::EndedEarly(ran), E::Resumed) => (S::EndedEarly(ran), &[A::Answer]),
        (S::EndedEarly(Ran::No), E::Keep | E::Unattended | E::Late) => (S::Gone, &[A::Forget]),
        (S::EndedEarly(Ran::Yes), E::Keep | E::Unattended | E::Late) => (S::Gone, REPORT),
        (S::EndedEarly(Ran::Unknown), E::Keep) => (S::Gone, REPORT),
        (S::EndedEarly(Ran::Unknown), E::Unattended) => (S::EndedEarly(Ran::Unknown), &[]),
        // No client comes back to decide. The end is reported as it is known: that is better than none.
        (S::EndedEarly(Ran::Unknown), E::Late) => (S::Gone, REPORT),
        (S::EndedEarly(_), E::GiveUp) => (S::Gone, &[A::Forget]),
        (S::GivenUp, E::Ended(_)) => (S::Gone, &[A::Forget]),

        // What was said twice, or too late, changes nothing.
        (S::Launching, E::Forked | E::Executed | E::Ended(_) | E::Keep | E::GiveUp | E::Resumed) => {
            (state, &[])
        }
        (
            S::Void,
            E::Forked | E::Executed | E::Ended(_) | E::Keep | E::GiveUp | E::Unattended | E::Resumed,
        ) => (state, &[]),
        (S::Attended, E::Spawned | E::NotSpawned | E::Executed | E::Late) => (state, &[]),
        // The connection that it comes back on takes the place of one whose end is not known yet.
        (S::Attended, E::Resumed) => (S::Attended, &[A::Answer]),
        (S::Unattended, E::Spawned | E::NotSpawned | E::Forked | E::Unattended) => (state, &[]),
        (
            S::Kept,
            E::Spawned
            | E::NotSpawned
            | E::Forked
            | E::Executed
            | E::Keep
            | E::GiveUp
            | E::Unattended
            | E::Late,
        ) => (state, &[]),
        (S::EndedEarly(_), E::Spawned | E::NotSpawned | E::Forked | E::Executed | E::Ended(_)) => {
            (state, &[])
        }
        (
            S::GivenUp,
            E::Spawned
            | E::NotSpawned
            | E::Forked
            | E::Executed
            | E::Keep
            | E::GiveUp
            | E::Unattended
            | E::Resumed
            | E::Late,
        ) => (state, &[]),
        (
            S::Gone,
            E::Spawned
            | E::NotSpawned
            | E::Forked
            | E::Executed
            | E::Ended(_)
            | E::Keep
            | E::GiveUp
            | E::Unattended
            | E::Resumed
            | E::Late,
        ) => (state, &[]),
    }
}

/// The end of a container.
const ENDED: &[Action] =
    &[Action::ReadExit, Action::Drain, Action::WriteExit, Action::Tell, Action::Command, Action::Forget];

/// The same, where it was read before.
const REPORT: &[Action] = &[Action::WriteExit, Action::Tell, Action::Command, Action::Forget];

#[cfg(test)]
mod tests {
    use super::*;
    use Action::*;
    use Event::{Ended, Executed, Forked, GiveUp, Keep, Late, NotSpawned, Resumed, Spawned, Unattended};

    fn run_from(first: State, events: &[Event]) -> (State, Vec<Action>) {
        events.iter().fold((first, Vec::new()), |(state, mut all), event| {
            let (next, actions) = step(state, *event);
            all.extend(actions);
            (next, all)
        })
    }

    fn run(events: &[Event]) -> (State, Vec<Action>) {
        run_from(State::Launching, events)
    }

    #[test]
    fn whole_lives() {
        let end = [ReadExit, Drain, WriteExit, Tell, Command, Forget];
        let (spawned, kept) = ([Record, Answer], [Record, Settle]);
        let gone = |parts: &[&[Action]]| (State::Gone, parts.concat());
        let (yes, no) = (Ended(Ran::Yes), Ended(Ran::No));
        assert_eq!(run(&[Spawned, Keep, yes]), gone(&[&spawned, &kept, &end]), "as it should be");
        let forked = [Record, Answer];
        assert_eq!(run(&[Spawned, Forked, Keep, yes]), gone(&[&spawned, &forked, &kept, &end]), "a copy");
        assert_eq!(run(&[Spawned, yes, Keep]), gone(&[&spawned, &end]), "a payload that ends at once");
        assert_eq!(run(&[Spawned, yes, Unattended]), gone(&[&spawned, &end]), "it, and its client, at once");
        assert_eq!(run(&[Spawned, Unattended, yes]), gone(&[&spawned, &end]), "the client died, it ran");
        assert_eq!(run(&[Spawned, Unattended, no]), gone(&[&spawned, &[Forget]]), "both died before it ran");
        assert_eq!(
            run(&[Spawned, Unattended, Executed, yes]),
            gone(&[&spawned, &kept, &end]),
            "the client died, and it was seen to run"
        );
        assert_eq!(run(&[Spawned, GiveUp, yes]), gone(&[&spawned, &[Kill, Forget]]), "given up and killed");
        assert_eq!(run(&[Spawned, yes, GiveUp]), gone(&[&spawned, &[ReadExit, Drain, Forget]]), "it failed");
        assert_eq!(
            run(&[Spawned, no, Keep]),
            gone(&[&spawned, &[ReadExit, Drain, Forget]]),
            "killed in set-up"
        );
        assert_eq!(run(&[NotSpawned]), gone(&[&[Refuse, Forget]]), "no process was made");
        assert_eq!(
            run(&[Late, NotSpawned]),
            gone(&[&[KillLauncher, Refuse, Forget]]),
            "a launcher that hangs"
        );
        assert_eq!(
            run(&[Spawned, Unattended, Late, no]),
            gone(&[&spawned, &[Kill, Forget]]),
            "the client died, and it was stopped"
        );
    }

    #[test]
    fn lives_under_a_second_keeper() {
        let end = [ReadExit, Drain, WriteExit, Tell, Command, Forget];
        let gone = |parts: &[&[Action]]| (State::Gone, parts.concat());
        let unattended = |events: &[Event]| run_from(State::Unattended, events);
        assert_eq!(
            unattended(&[Resumed, Keep, Ended(Ran::Unknown)]),
            gone(&[&[Answer], &[Record, Settle], &end]),
            "its client came back"
        );
        assert_eq!(
            unattended(&[Ended(Ran::Unknown), Resumed, Keep]),
            gone(&[&[ReadExit, Drain, Answer, WriteExit, Tell, Command, Forget]]),
            "its client came back after its end"
        );
        assert_eq!(
            unattended(&[Ended(Ran::Unknown), Resumed, GiveUp]),
            gone(&[&[ReadExit, Drain, Answer, Forget]]),
            "its client came back and knew better"
        );
        assert_eq!(run_from(State::Void, &[Spawned, Ended(Ran::Unknown)]), gone(&[&[Kill, Forget]]));
        assert_eq!(run_from(State::Void, &[NotSpawned]), gone(&[&[Forget]]));
    }

    #[test]
    fn how_it_ended_is_told_once_and_only_when_it_is_known() {
        const ALL: [Event; 12] = [
            Spawned,
            NotSpawned,
            Forked,
            Executed,
            Ended(Ran::Yes),
            Ended(Ran::No),
            Ended(Ran::Unknown),
            Keep,
            GiveUp,
            Unattended,
            Resumed,
            Late,
        ];
        // Every sequence of five events, from each state that a keeper may begin with.
        for number in 0..ALL.len().pow(5) {
            let events: Vec<Event> = (0..5_u32).map(|d| ALL[number / ALL.len().pow(d) % ALL.len()]).collect();
            for first in [State::Launching, State::Void, State::Unattended, State::Kept] {
                let (state, actions) = run_from(first, &events);
                let count = |wanted: Action| actions.iter().filter(|a| **a == wanted).count();
                let position = |wanted: Action| actions.iter().position(|a| *a == wanted);
                assert!(count(Forget) <= 1, "{events:?}");
                assert!(count(Tell) <= 1 && count(Command) <= 1 && count(WriteExit) <= 1, "{events:?}");
                assert_eq!(count(Forget) == 1, state == State::Gone, "{events:?}");
                if let Some(reported) = position(Tell) {
                    assert!(position(ReadExit).is_some_and(|read| read < reported), "{events:?}");
                    assert!(position(WriteExit).is_some_and(|written| written < reported), "{events:?}");
                }
            }
        }
    }

    #[test]
    fn what_has_not_run_is_never_told_to_have_ended() {
        for first in [State::Launching, State::Unattended] {
            for before in [&[][..], &[Unattended], &[Resumed]] {
                for after in [&[][..], &[Keep], &[Unattended], &[Late]] {
                    let events = [&[Spawned][..], before, &[Ended(Ran::No)], after].concat();
                    let (_, actions) = run_from(first, &events);
                    assert!(!actions.contains(&Tell) && !actions.contains(&WriteExit), "{events:?}");
                }
            }
        }
    }
}
