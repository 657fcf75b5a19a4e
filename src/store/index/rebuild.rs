//! Rebuilds a layer's tar from its tree and its record.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

use super::gone::Gone;
use super::{Extent, Reader, Record, Tree};
use crate::digest::{Digest, Hasher};
use crate::error::{Doing, Error, Kind, Result};

/// Bytes read at once.
const BUFFER: usize = 64 << 10;

/// The length of the layer's tar, in bytes.
///
/// # Errors
/// `Corrupt` when the record is damaged.
pub(crate) fn tar_bytes(index: File) -> Result<u64> {
    let mut reader = Reader::new(index);
    while let Some(record) = reader.next()? {
        if let Record::End { tar_bytes, .. } = record {
            return Ok(tar_bytes);
        }
    }
    Err(cut_off())
}

/// Returns whether the tree still has all data of the tar: no member was replaced by a later one of the same layer.
///
/// # Errors
/// `Corrupt` when the record is damaged.
pub(crate) fn is_whole(index: File, again: File) -> Result<bool> {
    let gone = Gone::read(index)?;
    let mut reader = Reader::new(again);
    let mut number = 0;
    while let Some(record) = reader.next()? {
        if let Record::File { path, extents, .. } = &record
            && extents.iter().any(|extent| extent.length > 0)
            && gone.removes(path, number)
        {
            return Ok(false);
        }
        number += 1;
    }
    Ok(true)
}

/// Writes the tar to `out`, for a layer that [`is_whole`], and returns its digest, which equals the diffID.
///
/// # Errors
/// `Corrupt`, with the path, when the tree or the record is damaged; else the error of reading or writing.
pub(crate) fn rebuild(index: File, root: BorrowedFd<'_>, out: &mut dyn Write) -> Result<Digest> {
    let mut reader = Reader::new(index);
    let mut tree = Tree::new(root);
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0u8; BUFFER]);
    while let Some(record) = reader.next()? {
        match record {
            Record::Raw(bytes) => {
                hasher.update(bytes);
                out.write_all(bytes).doing(|| "write the layer")?;
            }
            Record::File { path, extents, crc, .. } => {
                let doing = || format!("read \"{}\" of the layer", path.escape_ascii());
                let file = tree.open_file(path).doing(doing)?;
                let actual = data(file.as_fd(), &extents, &mut buffer, &mut |piece| {
                    hasher.update(piece);
                    out.write_all(piece).doing(|| "write the layer")
                })?;
                if actual != Some(crc) {
                    let doing = format!("\"{}\" of the layer is damaged", path.escape_ascii());
                    return Err(Error::new(Kind::Corrupt, doing).hint("repair the image first"));
                }
            }
            Record::End { diff_id, .. } => {
                let actual = hasher.finish();
                if actual != diff_id {
                    let doing = format!("the rebuilt tar of layer {diff_id} has digest {actual}");
                    return Err(Error::new(Kind::Corrupt, doing).hint("repair the image first"));
                }
                return Ok(actual);
            }
            _ => {}
        }
    }
    Err(cut_off())
}

/// Passes all data of an open file to `each`; returns its checksum, or `None` when the file is too short.
pub(super) fn data(
    file: BorrowedFd<'_>,
    extents: &[Extent],
    buffer: &mut [u8],
    each: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Option<u32>> {
    let mut crc = crc32fast::Hasher::new();
    for extent in extents {
        let (mut at, mut left) = (extent.offset, extent.length);
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            let count = match rustix::io::pread(file, &mut buffer[..most], at) {
                Ok(0) => return Ok(None),
                Err(Errno::INTR) => continue,
                other => other.doing(|| "read a file of the layer")?,
            };
            crc.update(&buffer[..count]);
            each(&buffer[..count])?;
            at += count as u64;
            left -= count as u64;
        }
    }
    Ok(Some(crc.finalize()))
}

fn cut_off() -> Error {
    Error::new(Kind::Corrupt, "the layer's record files.idx ends too early")
}
