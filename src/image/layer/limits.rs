//! Limits on the resources that a layer may use.

use crate::image::tar;

/// Limits for one layer. The defaults accept every ordinary image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Members of the archive.
    pub entries: u64,
    /// Bytes of the uncompressed stream, and the size of any one file including its holes.
    pub bytes: u64,
    /// Uncompressed bytes per compressed byte, checked after [`Limits::ratio_from`] bytes.
    pub ratio: u64,
    /// Uncompressed bytes after which the ratio is checked: short runs of zeros compress better than any bomb.
    pub ratio_from: u64,
    /// Largest zstd window, as a power of two: the decoder's memory in bytes.
    pub zstd_window_log: u32,
    /// Bytes of memory for directories, whose attributes are set at the end of the layer.
    pub directory_bytes: u64,
    /// Limits for single members.
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
