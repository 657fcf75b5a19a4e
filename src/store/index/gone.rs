//! The records that no longer hold, because a later member of the same layer removed their objects.

use std::collections::BTreeMap;
use std::fs::File;

use super::{Reader, Record};
use crate::error::{Error, Kind, Result};

/// The most bytes of paths to remember. An ordinary layer needs none: members that replace others are against the
/// rules.
const MAX_BYTES: usize = 16 << 20;

/// The removed paths, and the last record that removed each.
#[derive(Debug, Default)]
pub(super) struct Gone {
    last: BTreeMap<Vec<u8>, u64>,
}

impl Gone {
    /// Reads the whole record once.
    pub(super) fn read(index: File) -> Result<Self> {
        let mut reader = Reader::new(index);
        let (mut gone, mut held, mut number) = (Self::default(), 0usize, 0u64);
        while let Some(record) = reader.next()? {
            if let Record::Gone { path } = record {
                held += path.len() + 64;
                if held > MAX_BYTES {
                    let doing = "the layer replaces too many of its own members";
                    return Err(Error::new(Kind::Unsupported, doing));
                }
                gone.last.insert(path.to_vec(), number);
            }
            number += 1;
        }
        Ok(gone)
    }

    /// Returns whether the object that record `number` created at `path` was removed later.
    pub(super) fn removes(&self, path: &[u8], number: u64) -> bool {
        if self.last.is_empty() {
            return false;
        }
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| self.last.get(&path[..end]).is_some_and(|last| *last > number))
    }
}
