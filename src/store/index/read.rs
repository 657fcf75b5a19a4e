//! Reads `files.idx`, frame by frame.

use std::fs::File;
use std::io::Read;

use super::Record;
use super::code::decode;
use crate::error::{Doing, Error, Kind, Result};

pub(super) const MAGIC: [u8; 4] = *b"cfi1";

/// The most bytes of records in one frame; a single record may be far larger than the usual frame.
const MAX_FRAME: usize = 8 << 20;

/// Reads records in order. It holds one frame in memory.
pub(crate) struct Reader {
    file: File,
    records: Vec<u8>,
    at: usize,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Reader {
    /// Reads from the beginning of `file`.
    pub(crate) fn new(file: File) -> Self {
        Self { file, records: Vec::new(), at: 0 }
    }

    /// The next record; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt` when a frame is damaged or cut off; else the error of reading.
    pub(crate) fn next(&mut self) -> Result<Option<Record<'_>>> {
        if self.at == self.records.len() && !self.frame()? {
            return Ok(None);
        }
        let mut rest = self.records.get(self.at..).unwrap_or_default();
        let before = rest.len();
        let record = decode(&mut rest).ok_or_else(damaged)?;
        self.at += before - rest.len();
        Ok(Some(record))
    }

    fn frame(&mut self) -> Result<bool> {
        let mut head = [0u8; 16];
        match fill(&mut self.file, &mut head)? {
            0 => return Ok(false),
            16 => {}
            _ => return Err(damaged()),
        }
        let number = |from: usize| {
            head.get(from..)
                .and_then(|bytes| bytes.first_chunk())
                .map_or(0, |bytes| u32::from_le_bytes(*bytes))
        };
        let (raw, length, crc) = (number(4) as usize, number(8) as usize, number(12));
        if head[..4] != MAGIC || raw > MAX_FRAME || length > MAX_FRAME {
            return Err(damaged());
        }
        let mut packed = vec![0u8; length];
        if fill(&mut self.file, &mut packed)? != length || checksum(&head[4..12], &packed) != crc {
            return Err(damaged());
        }
        self.records = zstd::bulk::decompress(&packed, raw).map_err(|error| damaged().because(error))?;
        self.at = 0;
        if self.records.len() == raw && raw > 0 { Ok(true) } else { Err(damaged()) }
    }
}

fn fill(file: &mut File, buffer: &mut [u8]) -> Result<usize> {
    let mut count = 0;
    while count < buffer.len() {
        match file.read(&mut buffer[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).doing(|| "read the layer's record files.idx"),
        }
    }
    Ok(count)
}

pub(super) fn checksum(lengths: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(lengths);
    hasher.update(payload);
    hasher.finalize()
}

fn damaged() -> Error {
    Error::new(Kind::Corrupt, "the layer's record files.idx is damaged")
}

#[cfg(test)]
mod tests {
    use super::super::Writer;
    use super::*;
    use crate::digest::Digest;

    fn written(path: &std::path::Path) -> Vec<u8> {
        let mut writer = Writer::new(File::create(path).unwrap()).unwrap();
        for n in 0..3000u32 {
            writer.raw(format!("header {n} ").repeat(20).as_bytes()).unwrap();
            writer.put(&Record::Whiteout { path: n.to_string().as_bytes() }).unwrap();
        }
        writer.finish(Digest::of(b"x")).unwrap();
        std::fs::read(path).unwrap()
    }

    fn count(path: &std::path::Path) -> Result<usize> {
        let mut reader = Reader::new(File::open(path).unwrap());
        let mut count = 0;
        while reader.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    #[test]
    fn all_records_are_read_back_and_any_flipped_bit_is_detected() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("files.idx");
        let bytes = written(&path);
        assert_eq!(count(&path).unwrap(), 6001);
        for at in (0..bytes.len()).step_by(bytes.len() / 200 + 1) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(&path, flipped).unwrap();
            assert_eq!(count(&path).unwrap_err().kind(), Kind::Corrupt, "byte {at}");
        }
    }
}
