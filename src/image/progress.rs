//! Progress reports of an import.

use crate::digest::Digest;

/// The result of the work on a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was unpacked.
    Unpacked,
    /// The store had it already.
    Present,
}

/// Receives the progress of an import. Layers are identified by the digest of their blob; several may be in progress at
/// once.
pub trait Progress: Sync {
    /// Work on a layer begins; its blob has `size_bytes`.
    fn begin(&self, layer: &Digest, size_bytes: u64);
    /// `bytes` more bytes of the blob were read.
    fn advance(&self, layer: &Digest, bytes: u64);
    /// Work on a layer has ended.
    fn end(&self, layer: &Digest, outcome: Outcome);
    /// A warning about something that does not spoil the image.
    fn warn(&self, text: &str);
}

/// Ignores all progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _layer: &Digest, _size_bytes: u64) {}
    fn advance(&self, _layer: &Digest, _bytes: u64) {}
    fn end(&self, _layer: &Digest, _outcome: Outcome) {}
    fn warn(&self, _text: &str) {}
}
