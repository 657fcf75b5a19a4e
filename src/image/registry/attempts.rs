//! What each endpoint answered that was asked for one thing, and the error to report when none has it.

use super::fault::Fault;
use crate::error::{Error, Kind};

/// The last fault of each endpoint that was asked.
#[derive(Debug, Default)]
pub(super) struct Attempts(Vec<Attempt>);

#[derive(Debug)]
struct Attempt {
    /// The URL of the repository there.
    place: String,
    fault: Fault,
    /// There was a response from there in this session, so it can be reached at times.
    is_reachable: bool,
}

impl Attempts {
    /// Records a fault; it replaces an earlier one of the same endpoint.
    pub(super) fn note(&mut self, place: String, fault: Fault, is_reachable: bool) {
        let attempt = Attempt { place, fault, is_reachable };
        match self.0.iter_mut().find(|known| known.place == attempt.place) {
            Some(known) => *known = attempt,
            None => self.0.push(attempt),
        }
    }

    /// Whether `place` was asked.
    pub(super) fn has(&self, place: &str) -> bool {
        self.0.iter().any(|known| known.place == place)
    }

    /// Whether asking again is pointless: one endpoint does not have the thing, and no other one can be reached. That is
    /// what a site without a way to the internet looks like to its mirror's clients.
    pub(super) fn is_settled(&self) -> bool {
        let has_not = |attempt: &Attempt| attempt.fault.error.kind() == Kind::NotFound;
        self.0.iter().any(has_not)
            && !self.0.iter().any(|attempt| attempt.fault.may_pass() && attempt.is_reachable)
    }

    /// The error: of the kind that says most, as containerd chooses it; with each endpoint and its answer on a line of its
    /// own if there are several. `None` if nothing was asked.
    pub(super) fn into_error(self) -> Option<Error> {
        let mut attempts = self.0;
        if attempts.len() <= 1 {
            return attempts.pop().map(|attempt| attempt.fault.error);
        }
        let mut text = format!("none of {} endpoints has it:", attempts.len());
        for attempt in &attempts {
            let answer = attempt.fault.error.chain().replace(['\n', '\r'], " ");
            text.push_str(&format!("\n  {}: {answer}", attempt.place));
        }
        // The first one of the greatest weight.
        let best = attempts.iter().rev().max_by_key(|attempt| weight(&attempt.fault))?;
        let error = Error::new(best.fault.error.kind(), text);
        Some(match best.fault.error.first_hint() {
            Some(hint) => error.hint(hint.to_owned()),
            None => error,
        })
    }
}

/// A response says more than none, and one that refuses or fails more than one that has not the thing.
fn weight(fault: &Fault) -> u8 {
    match (fault.error.kind(), fault.is_answer) {
        (Kind::NotFound, _) => 1,
        (_, true) => 2,
        (_, false) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::Retry;
    use super::*;

    fn fault(kind: Kind, is_answer: bool) -> Fault {
        let passes = matches!(kind, Kind::Unreachable | Kind::TimedOut);
        let retry = if passes { Retry::Backoff } else { Retry::Never };
        Fault { error: Error::new(kind, format!("{kind:?}\nx")).hint(format!("{kind:?}")), retry, is_answer }
    }

    fn all(faults: &[(Kind, bool)]) -> Attempts {
        let mut attempts = Attempts::default();
        for (number, (kind, is_answer)) in faults.iter().enumerate() {
            attempts.note(format!("https://{number}"), fault(*kind, *is_answer), *is_answer);
        }
        attempts
    }

    #[test]
    fn it_is_settled_once_one_has_it_not_and_no_other_can_be_reached() {
        let (down, busy) = ((Kind::Unreachable, false), (Kind::Unreachable, true));
        let missing = (Kind::NotFound, true);
        for faults in [vec![missing, down], vec![down, missing], vec![missing, (Kind::Denied, true), down]] {
            assert!(all(&faults).is_settled(), "{faults:?}");
        }
        for faults in [vec![], vec![down, down], vec![missing, busy], vec![(Kind::Denied, true), down]] {
            assert!(!all(&faults).is_settled(), "{faults:?}");
        }
    }

    #[test]
    fn the_error_is_of_the_kind_that_says_most_and_lists_all() {
        let (down, missing) = ((Kind::Unreachable, false), (Kind::NotFound, true));
        for (faults, kind) in [
            (vec![missing, down], Kind::NotFound),
            (vec![down, missing], Kind::NotFound),
            (vec![missing, (Kind::Denied, true)], Kind::Denied),
            (vec![(Kind::Denied, true), missing], Kind::Denied),
            (vec![missing, (Kind::Denied, false)], Kind::NotFound),
            (vec![missing, (Kind::Unreachable, true), (Kind::Denied, true)], Kind::Unreachable),
            (vec![(Kind::TimedOut, false), down], Kind::TimedOut),
        ] {
            let error = all(&faults).into_error().unwrap();
            assert_eq!(error.kind(), kind, "{faults:?}");
            let text = error.chain();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), faults.len() + 1, "{text}");
            for (number, (kind, _)) in faults.iter().enumerate() {
                assert_eq!(lines[number + 1], format!("  https://{number}: {kind:?} x"));
            }
            assert_eq!(error.first_hint(), Some(format!("{kind:?}").as_str()));
        }
        assert_eq!(all(&[missing]).into_error().unwrap().chain(), "NotFound\nx");
        assert!(Attempts::default().into_error().is_none());
    }
}
