//! The progress of pulls and imports, of which the daemon logs the warnings.

use crate::digest::Digest;
use crate::image::progress::{Outcome, Progress};

/// Logs the warnings.
pub(super) struct LogProgress;

impl Progress for LogProgress {
    fn begin(&self, _layer: &Digest, _size_bytes: u64) {}
    fn advance(&self, _layer: &Digest, _bytes: u64) {}
    fn end(&self, _layer: &Digest, _outcome: Outcome) {}

    fn warn(&self, text: &str) {
        crate::log::warning(text);
    }
}
