//! The end of a pull that nobody wants any more, or that gets nowhere.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::error::{Error, Kind, Result};

/// Shared by a pull and whoever may end it. Waits end at once when it is cancelled.
#[derive(Debug, Clone)]
pub struct Cancel {
    cancelled: watch::Sender<bool>,
    patience: Option<Duration>,
    progress: Arc<Mutex<Instant>>,
}

impl Default for Cancel {
    /// One with endless patience.
    fn default() -> Self {
        let progress = Arc::new(Mutex::new(Instant::now()));
        Self { cancelled: watch::Sender::new(false), patience: None, progress }
    }
}

impl Cancel {
    /// One that also ends a pull during which nothing came for so long.
    pub fn after(patience: Duration) -> Self {
        Self { patience: Some(patience), ..Self::default() }
    }

    /// Ends what is under way, and what has not begun.
    pub fn cancel(&self) {
        self.cancelled.send_replace(true);
    }

    /// Something came.
    pub(super) fn has_progress(&self) {
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When patience ends.
    fn end(&self) -> Option<Instant> {
        let progress = *self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        self.patience.map(|patience| progress + patience)
    }

    /// # Errors
    /// `Cancelled`, or `TimedOut` when patience is over.
    pub(super) fn check(&self) -> Result<()> {
        let is_over = self.end().is_some_and(|end| end <= Instant::now());
        if *self.cancelled.borrow() {
            return Err(Error::new(Kind::Cancelled, "nobody waits for it any more"));
        }
        if is_over { Err(self.impatience()) } else { Ok(()) }
    }

    /// Waits until it is cancelled or patience is over, and says which.
    pub(super) async fn wait(&self) -> Error {
        let mut receiver = self.cancelled.subscribe();
        // `self` holds the sender, so this fails never.
        let cancelled = async { drop(receiver.wait_for(|cancelled| *cancelled).await) };
        match self.end() {
            None => cancelled.await,
            Some(end) => {
                if tokio::time::timeout_at(end, cancelled).await.is_err() {
                    return self.impatience();
                }
            }
        }
        Error::new(Kind::Cancelled, "nobody waits for it any more")
    }

    fn impatience(&self) -> Error {
        let seconds = self.patience.unwrap_or_default().as_secs();
        Error::new(Kind::TimedOut, format!("there was no progress for {seconds} s"))
    }
}
