//! How much a layer may ask for before it counts as an attack.

use crate::image::tar;

/// Bounds on what one layer may cost. The defaults let every ordinary image pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Members of the archive.
    pub entries: u64,
    /// Bytes of the uncompressed stream, and the size of any one file with its holes.
    pub bytes: u64,
    /// Uncompressed bytes per compressed byte, once [`Limits::ratio_from`] is passed.
    pub ratio: u64,
    /// Uncompressed bytes from which on the ratio is looked at: short runs of zeros compress better than any bomb.
    pub ratio_from: u64,
    /// Largest zstd window, as a power of two: it is how much memory the decoder takes.
    pub zstd_window_log: u32,
    /// Bytes of memory for directories, whose attributes must wait for the end of the layer.
    pub directory_bytes: u64,
    /// Bounds on single members.
    pub tar: tar::Limits,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            bytes: 64 << 30,
            ratio: 200,
            ratio_from: 1 << 30,
            zstd_window_log: 23,
            directory_bytes: 32 << 20,
            tar: tar::Limits::default(),
        }
    }
}
