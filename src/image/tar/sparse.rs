//! Files with holes: the old GNU map and the three pax formats, GNU tar manual "Storing Sparse Files".

use super::header::BLOCK;
use super::number;
use crate::error::{Error, Kind, Result};

/// A piece of stored data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The position in the file.
    pub offset: u64,
    /// The length in bytes.
    pub length: u64,
}

/// The checked map of a file with holes: its segments are sorted, disjoint, inside the file, and add up to the stored
/// data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sparse {
    /// The pieces, in the order of their data.
    pub segments: Vec<Segment>,
    /// The size of the file with its holes.
    pub real_size: u64,
}

impl Sparse {
    /// Checks a map against the `stored` bytes that follow.
    pub(super) fn checked(segments: Vec<Segment>, real_size: u64, stored: u64) -> Result<Self> {
        let mut end = 0u64;
        let mut sum = 0u64;
        for segment in &segments {
            let next = segment.offset.checked_add(segment.length).filter(|next| *next <= real_size);
            end = match next {
                Some(next) if segment.offset >= end => next,
                _ => return Err(corrupt("its segments overlap or leave the file")),
            };
            // Segments are disjoint and below real_size, so their sum cannot wrap.
            sum = sum.saturating_add(segment.length);
        }
        if sum != stored {
            return Err(corrupt("its segments do not add up to the data stored"));
        }
        Ok(Self { segments, real_size })
    }
}

/// The values of `GNU.sparse.*` records.
#[derive(Debug, Default)]
pub(super) struct PaxSparse {
    pub(super) name: Option<Vec<u8>>,
    version: (Option<u64>, Option<u64>),
    real_size: Option<u64>,
    segments: Vec<Segment>,
    open_offset: Option<u64>,
    map_seen: bool,
}

/// The format of the map of a pax sparse file.
#[derive(Debug)]
pub(super) enum PaxMap {
    /// No map: an ordinary file.
    Absent,
    /// Formats 0.0 and 0.1: the map is in the records.
    Here(Vec<Segment>, u64),
    /// Format 1.0: the map is at the start of the data.
    InData(u64),
}

impl PaxSparse {
    /// Stores the record `GNU.sparse.{name}`; `None` when its value is malformed.
    pub(super) fn set(&mut self, name: &[u8], value: &[u8], max_segments: u32) -> Option<()> {
        match name {
            b"major" => self.version.0 = Some(number::decimal(value)?),
            b"minor" => self.version.1 = Some(number::decimal(value)?),
            b"name" => {
                (!value.is_empty() && !value.contains(&0)).then_some(())?;
                self.name = Some(value.to_vec());
            }
            b"size" | b"realsize" => self.real_size = Some(number::decimal(value)?),
            b"numblocks" => {
                self.map_seen = true;
                (number::decimal(value)? <= u64::from(max_segments)).then_some(())?;
            }
            b"offset" => {
                self.map_seen = true;
                let before = self.open_offset.replace(number::decimal(value)?);
                before.is_none().then_some(())?;
            }
            b"numbytes" => {
                let segment = Segment { offset: self.open_offset.take()?, length: number::decimal(value)? };
                push(&mut self.segments, segment, max_segments)?;
            }
            b"map" => {
                self.map_seen = true;
                self.segments = numbers(value, max_segments)?;
            }
            _ => {}
        }
        Some(())
    }

    /// The format, if any.
    pub(super) fn map(self) -> Result<PaxMap> {
        match (self.version, self.real_size) {
            ((Some(1), Some(0)), Some(size)) if !self.map_seen => Ok(PaxMap::InData(size)),
            ((None | Some(0), _), Some(size)) if self.map_seen && self.open_offset.is_none() => {
                Ok(PaxMap::Here(self.segments, size))
            }
            ((None, None), None) if !self.map_seen => Ok(PaxMap::Absent),
            _ => Err(corrupt("its pax records contradict each other or are of an unknown format")),
        }
    }
}

fn push(segments: &mut Vec<Segment>, segment: Segment, max: u32) -> Option<()> {
    if segments.len() >= usize::try_from(max).ok()? {
        return None;
    }
    segments.push(segment);
    Some(())
}

/// The 0.1 map: `offset,length,offset,length`.
fn numbers(text: &[u8], max: u32) -> Option<Vec<Segment>> {
    let mut segments = Vec::new();
    if text.is_empty() {
        return Some(segments);
    }
    let mut parts = text.split(|b| *b == b',').map(number::decimal);
    while let Some(offset) = parts.next() {
        push(&mut segments, Segment { offset: offset?, length: parts.next()?? }, max)?;
    }
    Some(segments)
}

/// Parses the 24-byte descriptors of an old GNU header; an empty one ends the list.
pub(super) fn old_descriptors(table: &[u8], segments: &mut Vec<Segment>, max: u32) -> Result<()> {
    for descriptor in table.chunks_exact(24) {
        if descriptor[0] == 0 || descriptor[12] == 0 {
            break;
        }
        let (offset, length) = (number::unsigned(&descriptor[..12]), number::unsigned(&descriptor[12..]));
        let (Some(offset), Some(length)) = (offset, length) else {
            return Err(corrupt("a number in its map is malformed"));
        };
        push(segments, Segment { offset, length }, max).ok_or_else(too_many)?;
    }
    Ok(())
}

/// The 1.0 map: decimal numbers, one per line, padded to whole blocks: the count, then offset and length of each.
#[derive(Debug, Default)]
pub(super) struct DataMap {
    line: Vec<u8>,
    count: Option<u64>,
    offset: Option<u64>,
    segments: Vec<Segment>,
}

impl DataMap {
    /// Parses the next block; returns the segments once all are complete.
    pub(super) fn feed(&mut self, block: &[u8; BLOCK], max: u32) -> Result<Option<Vec<Segment>>> {
        for byte in block {
            if *byte != b'\n' {
                self.line.push(*byte);
                // The longest 64-bit number has 20 digits.
                if self.line.len() > 20 {
                    return Err(corrupt("a number in its map is malformed"));
                }
                continue;
            }
            let number =
                number::decimal(&self.line).ok_or_else(|| corrupt("a number in its map is malformed"))?;
            self.line.clear();
            if self.take(number, max)? {
                return Ok(Some(std::mem::take(&mut self.segments)));
            }
        }
        Ok(None)
    }

    fn take(&mut self, number: u64, max: u32) -> Result<bool> {
        match (self.count, self.offset.take()) {
            (None, _) if number > u64::from(max) => return Err(too_many()),
            (None, _) => self.count = Some(number),
            (Some(_), None) => self.offset = Some(number),
            (Some(_), Some(offset)) => {
                push(&mut self.segments, Segment { offset, length: number }, max).ok_or_else(too_many)?;
            }
        }
        Ok(self.offset.is_none() && self.count == u64::try_from(self.segments.len()).ok())
    }
}

fn corrupt(why: &str) -> Error {
    Error::new(Kind::Corrupt, format!("the map of a sparse file is damaged: {why}"))
}

fn too_many() -> Error {
    Error::new(Kind::Invalid, "a sparse file has more segments than allowed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(pairs: &[(u64, u64)]) -> Vec<Segment> {
        pairs.iter().map(|(offset, length)| Segment { offset: *offset, length: *length }).collect()
    }

    #[test]
    fn maps_that_overlap_overflow_or_do_not_add_up_are_refused() {
        assert!(Sparse::checked(segments(&[(0, 5), (10, 5)]), 20, 10).is_ok());
        assert!(Sparse::checked(segments(&[(0, 5), (4, 5)]), 20, 10).is_err());
        assert!(Sparse::checked(segments(&[(10, 5), (0, 5)]), 20, 10).is_err());
        assert!(Sparse::checked(segments(&[(16, 5)]), 20, 5).is_err());
        assert!(Sparse::checked(segments(&[(u64::MAX, 2)]), u64::MAX, 2).is_err());
        assert!(Sparse::checked(segments(&[(0, 5)]), 20, 6).is_err());
    }

    #[test]
    fn a_map_in_the_data_is_read_across_blocks_and_capped() {
        let lines: String = (0..40).map(|n| format!("{}\n{}\n", n * 1_000_000, 512)).collect();
        let mut blocks = format!("40\n{lines}").into_bytes();
        blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
        let mut map = DataMap::default();
        let mut done = None;
        for block in blocks.as_chunks::<BLOCK>().0 {
            assert!(done.is_none());
            done = map.feed(block, 40).unwrap();
        }
        assert_eq!(done.unwrap()[39], Segment { offset: 39_000_000, length: 512 });
        let first = blocks.first_chunk().unwrap();
        assert_eq!(DataMap::default().feed(first, 39).unwrap_err().kind(), Kind::Invalid);
        assert!(DataMap::default().feed(&[b'7'; BLOCK], 40).is_err());
    }

    #[test]
    fn a_map_in_the_records_is_capped_too() {
        assert_eq!(numbers(b"0,1,2,3", 2).unwrap(), segments(&[(0, 1), (2, 3)]));
        assert!(numbers(b"0,1,2,3", 1).is_none());
        assert!(numbers(b"0,1,2", 9).is_none());
        let mut sparse = PaxSparse::default();
        assert!(sparse.set(b"numbytes", b"1", 9).is_none(), "no offset before it");
        assert!(sparse.set(b"numblocks", b"10", 9).is_none());
    }
}
