//! Whether the keeper answers. A stopped keeper must not make its probes pile up, nor outlast the client that asks.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::Result;
use crate::keeper::client::Client;
use crate::pod::one_line;

/// How long the keeper may take for a connection, and for its greeting. It waits for nobody before it answers.
const LIMIT: Duration = Duration::from_secs(2);

/// What a probe found: nothing, or the error in one line.
pub(super) type Found = std::result::Result<(), String>;

/// Probes the keeper, one probe at a time.
#[derive(Debug, Default)]
pub(super) struct KeeperProbe(Mutex<Option<(Instant, Found)>>);

impl KeeperProbe {
    /// Whether the keeper of `run` answers. Whoever asks while a probe is under way waits for its result.
    pub(super) fn state(&self, run: &Path) -> Found {
        self.shared(|| Client::connect_within(run, LIMIT).map(drop))
    }

    fn shared(&self, probe: impl FnOnce() -> Result<()>) -> Found {
        let asked = Instant::now();
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((ended, found)) if *ended >= asked => found.clone(),
            _ => {
                let found = probe().map_err(|error| one_line(&error));
                *last = Some((Instant::now(), found.clone()));
                found
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn those_who_ask_at_once_share_one_probe_and_later_ones_get_another() {
        let (probe, count) = (KeeperProbe::default(), AtomicUsize::new(0));
        let ask = || {
            probe.shared(|| {
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(300));
                Err(crate::error::Error::invalid("hung"))
            })
        };
        std::thread::scope(|scope| {
            let asking: Vec<_> = (0..20).map(|_| scope.spawn(ask)).collect();
            assert!(asking.into_iter().all(|thread| thread.join().unwrap() == Err("hung".to_owned())));
        });
        let first = count.load(Ordering::Relaxed);
        assert!(first <= 2, "{first} probes");
        ask().unwrap_err();
        assert_eq!(count.load(Ordering::Relaxed), first + 1);
    }
}
