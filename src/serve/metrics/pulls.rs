//! What pulls have transferred.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::digest::Digest;
use crate::image::progress::{Outcome, Progress};
use crate::pod::histogram::Histogram;

/// Pulls since the daemon was started.
#[derive(Debug, Default)]
pub(in crate::serve) struct Pulls {
    /// How long they took, and how many failed.
    pub(in crate::serve) durations: Histogram,
    /// Bytes of layers that were received.
    pub(super) bytes: AtomicU64,
    /// Transfers that went on where an earlier one had stopped.
    pub(in crate::serve) resumes: Arc<AtomicU64>,
}

/// Counts the bytes of a pull, and hands its progress on.
pub(in crate::serve) struct CountedProgress<'a, P> {
    pub(in crate::serve) pulls: &'a Pulls,
    pub(in crate::serve) inner: P,
}

impl<P: Progress> Progress for CountedProgress<'_, P> {
    fn begin(&self, layer: &Digest, size_bytes: u64) {
        self.inner.begin(layer, size_bytes);
    }

    fn advance(&self, layer: &Digest, bytes: u64) {
        self.pulls.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.inner.advance(layer, bytes);
    }

    fn end(&self, layer: &Digest, outcome: Outcome) {
        self.inner.end(layer, outcome);
    }

    fn warn(&self, text: &str) {
        self.inner.warn(text);
    }
}
