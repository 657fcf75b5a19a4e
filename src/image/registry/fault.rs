//! Faults of requests to a registry, and whether to retry.

use std::time::Duration;

use super::Timing;
use crate::error::{Error, Kind};

/// The longest wait that a registry may require, in all, for one document or between two pieces of a blob.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// The longest back-off.
const MAX_BACKOFF: Duration = Duration::from_secs(60);

/// A failed request.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: Error,
    pub(super) retry: Retry,
    /// The endpoint answered, with this.
    pub(super) is_answer: bool,
}

/// Whether to retry a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// Permanent error: do not retry here.
    Never,
    /// Transient error: retry with back-off.
    Backoff,
    /// Retry after the time in `Retry-After`.
    After(Duration),
}

impl Fault {
    /// A transient fault.
    pub(super) fn transient(error: Error) -> Self {
        Self { error, retry: Retry::Backoff, is_answer: false }
    }

    /// Whether it may pass by itself.
    pub(super) fn may_pass(&self) -> bool {
        self.retry != Retry::Never
    }

    /// Wraps the error in the phrase for what was being done.
    pub(super) fn doing(self, doing: impl Into<std::borrow::Cow<'static, str>>) -> Self {
        Self { error: self.error.doing(doing), ..self }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let passes = matches!(error.kind(), Kind::Unreachable | Kind::TimedOut);
        Self { retry: if passes { Retry::Backoff } else { Retry::Never }, error, is_answer: false }
    }
}

/// Returns how to retry after a response that reports a passing fault, by its `Retry-After`: a registry that requires
/// a very long wait is not asked again.
pub(super) fn retry_of(asked: Option<Duration>) -> Retry {
    match asked {
        None => Retry::Backoff,
        Some(asked) if asked > MAX_RETRY_AFTER => Retry::Never,
        Some(asked) => Retry::After(asked),
    }
}

/// The time that a registry may still require to wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience(Duration);

impl Default for Patience {
    fn default() -> Self {
        Self(MAX_RETRY_AFTER)
    }
}

impl Patience {
    /// Takes the wait that the registry requires from what is left; returns false when that is not enough.
    pub(super) fn allows(&mut self, retry: Retry) -> bool {
        let Retry::After(asked) = retry else { return true };
        let left = self.0.checked_sub(asked);
        self.0 = left.unwrap_or_default();
        left.is_some()
    }
}

/// How long to wait before attempt `number` (the first retry is 1), with some jitter so that many devices that lost one
/// registry do not return all at once.
pub(super) fn wait(timing: &Timing, number: u32, retry: Retry) -> Duration {
    let own = timing.backoff.saturating_mul(1 << number.saturating_sub(1).min(10)).min(MAX_BACKOFF);
    let asked = match retry {
        Retry::After(asked) => asked.min(MAX_RETRY_AFTER),
        Retry::Never | Retry::Backoff => Duration::ZERO,
    };
    own.max(asked) + own.mul_f64(jitter() / 2.0)
}

/// A number from 0 to 1 that differs between devices.
fn jitter() -> f64 {
    let nanoseconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.subsec_nanos());
    let mixed = (nanoseconds ^ std::process::id()).wrapping_mul(0x9e37_79b1);
    f64::from(mixed) / f64::from(u32::MAX)
}

/// Parses `Retry-After`: seconds or a date.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // A number too large for the type is a long wait too.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = chrono::DateTime::parse_from_rfc2822(value).ok()?;
    (date.to_utc() - chrono::Utc::now()).to_std().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_and_retry_after_is_a_minimum() {
        let timing = Timing { backoff: Duration::from_millis(100), ..Timing::default() };
        let millis = |number, retry| wait(&timing, number, retry).as_millis();
        assert!((100..=150).contains(&millis(1, Retry::Backoff)));
        assert!((400..=600).contains(&millis(3, Retry::Backoff)));
        assert!(millis(60, Retry::Backoff) <= 90_000);
        assert!(millis(1, Retry::After(Duration::from_secs(7))) >= 7000);
        assert!(millis(1, Retry::After(Duration::from_secs(1 << 40))) < 61_000);
        assert_eq!(retry_after("7"), Some(Duration::from_secs(7)));
        let soon = (chrono::Utc::now() + chrono::TimeDelta::seconds(60)).to_rfc2822();
        assert!(retry_after(&soon).is_some_and(|wait| wait > Duration::from_secs(50)));
        assert_eq!(retry_after("soon"), None);
    }

    #[test]
    fn a_registry_that_requires_a_long_wait_is_not_asked_again() {
        for long in ["61", "3600", "99999999999999999999", "Tue, 31 Dec 2120 23:59:59 GMT"] {
            assert_eq!(retry_of(retry_after(long)), Retry::Never, "{long}");
        }
        assert_eq!(retry_of(retry_after("60")), Retry::After(Duration::from_secs(60)));
        for odd in ["", "-1", "1.5", "Fri, 31 Dec 1999 23:59:59 GMT"] {
            assert_eq!(retry_of(retry_after(odd)), Retry::Backoff, "{odd}");
        }
        let mut patience = Patience::default();
        let wait = Retry::After(Duration::from_secs(25));
        assert!(patience.allows(wait) && patience.allows(Retry::Backoff) && patience.allows(wait));
        assert!(!patience.allows(wait), "75 s in all");
        assert!(patience.allows(Retry::Backoff) && !patience.allows(wait));
    }
}
