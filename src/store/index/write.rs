//! Writes `files.idx`: records are collected to frames of 64 KiB, which are compressed and written one by one.

use std::fs::File;
use std::io::Write;

use zstd::bulk::Compressor;

use super::code::encode;
use super::read::{MAGIC, checksum};
use super::{Extent, Record};
use crate::digest::Digest;
use crate::error::{Doing, Result};

/// Bytes of records in a frame.
const FRAME: usize = 64 << 10;

/// The fastest level; it compresses headers to a fifth or a twentieth.
const LEVEL: i32 = 1;

const DOING: &str = "write the layer's record files.idx";

/// Writes records to a new file. It holds two frames and a compressor in memory.
pub(crate) struct Writer {
    out: File,
    records: Vec<u8>,
    /// The bytes of a raw record that can still grow.
    raw: Vec<u8>,
    packer: Compressor<'static>,
    tar_bytes: u64,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("tar_bytes", &self.tar_bytes).finish_non_exhaustive()
    }
}

impl Writer {
    /// Appends to `out`.
    ///
    /// # Errors
    /// When there is no memory for the compressor.
    pub(crate) fn new(out: File) -> Result<Self> {
        let packer = Compressor::new(LEVEL).doing(|| DOING)?;
        let (records, raw) = (Vec::with_capacity(FRAME), Vec::with_capacity(1 << 10));
        Ok(Self { out, records, raw, packer, tar_bytes: 0 })
    }

    /// Adds bytes of the tar that are no file's data.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> Result<()> {
        self.tar_bytes += bytes.len() as u64;
        // Padding and the header after it become one record.
        self.raw.extend(bytes);
        if self.raw.len() >= FRAME { self.end_raw() } else { Ok(()) }
    }

    /// Adds the record of a member.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn put(&mut self, record: &Record<'_>) -> Result<()> {
        if let Record::File { extents, .. } = record {
            self.tar_bytes += extents.iter().map(|Extent { length, .. }| length).sum::<u64>();
        }
        self.end_raw()?;
        encode(record, &mut self.records);
        self.flush_full()
    }

    /// Ends the tar, whose digest is `diff_id`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn finish(mut self, diff_id: Digest) -> Result<()> {
        let tar_bytes = self.tar_bytes;
        self.put(&Record::End { diff_id, tar_bytes })?;
        self.flush()
    }

    /// Writes all buffered records; used for records after `End`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn close(mut self) -> Result<()> {
        self.end_raw()?;
        self.flush()
    }

    fn end_raw(&mut self) -> Result<()> {
        if !self.raw.is_empty() {
            encode(&Record::Raw(&self.raw), &mut self.records);
            self.raw.clear();
        }
        self.flush_full()
    }

    fn flush_full(&mut self) -> Result<()> {
        if self.records.len() >= FRAME { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        if self.records.is_empty() {
            return Ok(());
        }
        let packed = self.packer.compress(&self.records).doing(|| DOING)?;
        let lengths = [self.records.len(), packed.len()].map(|length| (length as u32).to_le_bytes());
        let mut frame = Vec::with_capacity(16 + packed.len());
        frame.extend(MAGIC);
        frame.extend(lengths.as_flattened());
        frame.extend(checksum(lengths.as_flattened(), &packed).to_le_bytes());
        frame.extend(packed);
        self.records.clear();
        // Release the memory of a frame with one giant record.
        self.records.shrink_to(4 * FRAME);
        self.out.write_all(&frame).doing(|| DOING)
    }
}
