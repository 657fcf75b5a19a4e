//! Cancels a pull, or ends one that makes no progress.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};

/// Shared by a pull and its canceller. Waiting calls return at once when it is cancelled.
#[derive(Debug, Clone)]
pub struct Cancel {
    cancelled: watch::Sender<bool>,
    patience: Option<Duration>,
    progress: Arc<Mutex<Instant>>,
}

impl Default for Cancel {
    /// Without a time limit.
    fn default() -> Self {
        let progress = Arc::new(Mutex::new(Instant::now()));
        Self { cancelled: watch::Sender::new(false), patience: None, progress }
    }
}

impl Cancel {
    /// Also ends a pull that receives nothing for `patience`.
    pub fn after(patience: Duration) -> Self {
        Self { patience: Some(patience), ..Self::default() }
    }

    /// Cancels the current work and all later work.
    pub fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Records progress.
    pub(super) fn has_progress(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// The time when patience ends.
    fn end(&self) -> Option<Instant> {
        let progress = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        self.patience.map(|patience| progress + patience)
    }

    /// # Errors
    /// `Cancelled`, or `TimedOut` when there was no progress for too long.
    pub(super) fn check(&self) -> Result<()> {
        let is_over = self.end().is_some_and(|end| end <= Instant::now());
        if *self.cancelled.borrow() {
            return Err(Error::new(Kind::Cancelled, "the pull was cancelled"));
        }
        if is_over { Err(self.timed_out()) } else { Ok(()) }
    }

    /// Waits until it is cancelled or times out, and returns the error.
    pub(super) async fn wait(&self) -> Error {
        let mut receiver = self.cancelled.subscribe();
        // `self` holds the sender, so this never fails.
        let cancelled = async { drop(receiver.wait_for(|cancelled| *cancelled).await) };
        match self.end() {
            None => cancelled.await,
            Some(end) => {
                if tokio::time::timeout_at(end, cancelled).await.is_err() {
                    return self.timed_out();
                }
            }
        }
        Error::new(Kind::Cancelled, "the pull was cancelled")
    }

    fn timed_out(&self) -> Error {
        let seconds = self.patience.unwrap_or_default().as_secs();
        Error::new(Kind::TimedOut, format!("there was no progress for {seconds} s"))
    }
}
