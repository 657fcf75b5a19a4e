//! What an import tells while it works.

use crate::digest::Digest;

/// How the work on a layer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It was unpacked.
    Unpacked,
    /// The store had it.
    Present,
}

/// Listens to an import. Layers are told apart by the digest of their blob; several may be under way at once.
pub trait Progress: Sync {
    /// Work on a layer begins; its blob has `size_bytes`.
    fn begin(&self, layer: &Digest, size_bytes: u64);
    /// So many more bytes of the blob were read.
    fn advance(&self, layer: &Digest, bytes: u64);
    /// Work on a layer is done.
    fn end(&self, layer: &Digest, outcome: Outcome);
    /// Something is odd, but does not spoil the image.
    fn warn(&self, text: &str);
}

/// Nobody listens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _layer: &Digest, _size_bytes: u64) {}
    fn advance(&self, _layer: &Digest, _bytes: u64) {}
    fn end(&self, _layer: &Digest, _outcome: Outcome) {}
    fn warn(&self, _text: &str) {}
}
