//! Counts durations by size, for metrics. Writing takes no lock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds of the buckets, in milliseconds: from a fast start to kubelet's timeout and beyond.
pub const BOUNDS_MS: [u64; 14] =
    [5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 120_000, 600_000];

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Histogram {
    /// By bucket; the last is for what is longer than all bounds.
    counts: [AtomicU64; BOUNDS_MS.len() + 1],
    sum_us: AtomicU64,
    /// How often it failed. Failures have no duration: they would hide how long a success takes.
    failures: AtomicU64,
}

/// What a [`Histogram`] has counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    /// By bucket, not summed up.
    pub counts: [u64; BOUNDS_MS.len() + 1],
    /// The sum of all durations.
    pub sum: Duration,
    /// Failures.
    pub failures: u64,
}

impl Histogram {
    /// Counts a success that took so long.
    pub fn succeeded(&self, duration: Duration) {
        let bucket = BOUNDS_MS.iter().position(|bound| duration <= Duration::from_millis(*bound));
        let counter = self.counts.get(bucket.unwrap_or(BOUNDS_MS.len()));
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
    }

    /// Counts a failure.
    pub fn failed(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the result of `work` with its duration.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn time<T, E>(&self, work: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        let begin = std::time::Instant::now();
        let result = work();
        match &result {
            Ok(_) => self.succeeded(begin.elapsed()),
            Err(_) => self.failed(),
        }
        result
    }

    /// What was counted so far.
    pub fn counted(&self) -> Counted {
        let mut counts = [0; BOUNDS_MS.len() + 1];
        for (count, counter) in counts.iter_mut().zip(&self.counts) {
            *count = counter.load(Ordering::Relaxed);
        }
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed));
        Counted { counts, sum, failures: self.failures.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_in_their_bucket_and_failures_apart() {
        let histogram = Histogram::default();
        for millis in [0, 5, 6, 600_000, 600_001] {
            histogram.succeeded(Duration::from_millis(millis));
        }
        assert_eq!(histogram.time(|| Err::<(), _>("no")), Err("no"));
        let counted = histogram.counted();
        assert_eq!((counted.counts[0], counted.counts[1]), (2, 1));
        assert_eq!(counted.counts[BOUNDS_MS.len() - 1..], [1, 1]);
        assert_eq!(counted.sum, Duration::from_millis(5 + 6 + 600_000 + 600_001));
        assert_eq!((counted.counts.iter().sum::<u64>(), counted.failures), (5, 1));
        assert_eq!(histogram.time(|| Ok::<_, ()>(7)), Ok(7));
    }
}
