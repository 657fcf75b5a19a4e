//! Which records no longer hold: what they made was removed again by a later member of the same layer.

use std::collections::BTreeMap;
use std::fs::File;

use super::{Reader, Record};
use crate::error::{Error, Kind, Result};

/// Bytes of paths that are remembered. An ordinary layer needs none: members that replace others are against the rules.
const MOST: usize = 16 << 20;

/// The paths that were removed, and by which record last.
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
                if held > MOST {
                    let doing = "the layer replaces more of its own members than can be followed";
                    return Err(Error::new(Kind::Unsupported, doing));
                }
                gone.last.insert(path.to_vec(), number);
            }
            number += 1;
        }
        Ok(gone)
    }

    /// Whether what record `number` made at `path` was removed later.
    pub(super) fn takes(&self, path: &[u8], number: u64) -> bool {
        if self.last.is_empty() {
            return false;
        }
        let ends = path.iter().enumerate().filter(|(_, b)| **b == b'/').map(|(at, _)| at);
        ends.chain([path.len()]).any(|end| self.last.get(&path[..end]).is_some_and(|last| *last > number))
    }
}
