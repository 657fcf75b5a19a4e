//! What went wrong between us and a registry, and whether trying again can help.

use std::time::Duration;

use super::Timing;
use crate::error::{Error, Kind};

/// The longest that a registry may ask us to wait.
const LONGEST_WAIT: Duration = Duration::from_secs(600);
/// The longest wait of our own choice.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

/// A failed request.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: Error,
    pub(super) again: Again,
}

/// Whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// The same request gets the same answer here.
    Never,
    /// It may pass.
    Soon,
    /// The registry says when.
    After(Duration),
}

impl Fault {
    /// A fault that may pass.
    pub(super) fn passing(error: Error) -> Self {
        Self { error, again: Again::Soon }
    }

    /// Wraps the error in the phrase for what was being done.
    pub(super) fn doing(self, doing: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { error: self.error.doing(doing), again: self.again }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let passes = matches!(error.kind(), Kind::Unreachable | Kind::TimedOut);
        Self { again: if passes { Again::Soon } else { Again::Never }, error }
    }
}

/// How long to wait before try number `number` (the second one is 1), with some jitter so that many devices that lost
/// one registry do not come back all at once.
pub(super) fn wait(timing: &Timing, number: u32, again: Again) -> Duration {
    let own = timing.backoff.saturating_mul(1 << number.saturating_sub(1).min(10)).min(LONGEST_BACKOFF);
    let asked = match again {
        Again::After(asked) => asked.min(LONGEST_WAIT),
        Again::Never | Again::Soon => Duration::ZERO,
    };
    own.max(asked) + own.mul_f64(jitter() / 2.0)
}

/// A number from 0 to 1 that no two devices share.
fn jitter() -> f64 {
    let nanoseconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    let mixed = (nanoseconds ^ std::process::id()).wrapping_mul(0x9e37_79b1);
    f64::from(mixed) / f64::from(u32::MAX)
}

/// The value of `Retry-After`: seconds or a date.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    if let Ok(seconds) = value.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = chrono::DateTime::parse_from_rfc2822(value.trim()).ok()?;
    (date.to_utc() - chrono::Utc::now()).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_a_registrys_wish_is_a_floor() {
        let timing = Timing { backoff: Duration::from_millis(100), ..Timing::default() };
        let millis = |number, again| wait(&timing, number, again).as_millis();
        assert!((100..=150).contains(&millis(1, Again::Soon)));
        assert!((400..=600).contains(&millis(3, Again::Soon)));
        assert!(millis(60, Again::Soon) <= 90_000);
        assert!(millis(1, Again::After(Duration::from_secs(7))) >= 7000);
        assert!(millis(1, Again::After(Duration::from_secs(1 << 40))) < 700_000);
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        let soon = (chrono::Utc::now() + chrono::TimeDelta::seconds(60)).to_rfc2822();
        assert!(retry_after(&soon).is_some_and(|wait| wait > Duration::from_secs(50)));
        assert_eq!(retry_after("soon"), None);
    }
}
