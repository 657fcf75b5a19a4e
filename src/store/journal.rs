//! The journal: an append-only file of framed records, the only source of truth about the store's contents.
//!
//! ```text
//! frame    magic "cjr2" or "cjs2" | number u64 LE | length u32 LE | crc32 of number, length and payload u32 LE | payload
//! ```
//! The payload is one event as JSON; `cjs2` marks one that replaces all before it. Each frame is written twice, one copy
//! after the other, and each commit is synced before the next is written. So a power cut damages at most the last
//! record, whose torn tail the next writer cuts off; and damage of one copy on flash is repaired from the other. Numbers
//! increase by one, so the loss of both copies of a record is detected; the record is skipped, which is never fatal.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

const MAGIC: [u8; 4] = *b"cjr2";
const SNAPSHOT: [u8; 4] = *b"cjs2";
const HEAD: usize = 20;
/// Far above any real record; a greater length means damage.
const MAX_PAYLOAD: usize = 64 << 20;

/// The result of reading journal bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// The payloads of the records, in order.
    pub(crate) payloads: Vec<Vec<u8>>,
    /// The end of the last good frame.
    pub(crate) good: usize,
    /// The number of the last record; 0 before the first.
    pub(crate) last: u64,
    /// True if a record is lost.
    pub(crate) lost: bool,
    /// True if a copy of a record is damaged.
    pub(crate) flawed: bool,
}

struct Frame<'a> {
    number: u64,
    is_snapshot: bool,
    payload: &'a [u8],
}

/// Reads frames from `bytes`, which follow record `last`.
pub(crate) fn scan(bytes: &[u8], last: u64) -> Scan {
    let mut scan = Scan { last, ..Scan::default() };
    while let Some((start, frame)) = next_frame(bytes, scan.good) {
        scan.flawed |= start != scan.good;
        scan.good = start + HEAD + frame.payload.len();
        if frame.number > scan.last {
            scan.lost |= frame.number != scan.last + 1 && !frame.is_snapshot;
            scan.last = frame.number;
            scan.payloads.push(frame.payload.to_vec());
        }
    }
    scan
}

/// The first good frame at or after `from`.
fn next_frame(bytes: &[u8], from: usize) -> Option<(usize, Frame<'_>)> {
    (from..bytes.len().saturating_sub(HEAD - 1))
        .filter(|at| bytes[*at..].starts_with(b"cj"))
        .find_map(|at| frame_at(&bytes[at..]).map(|frame| (at, frame)))
}

fn frame_at(bytes: &[u8]) -> Option<Frame<'_>> {
    let is_snapshot = match *bytes.first_chunk()? {
        MAGIC => false,
        SNAPSHOT => true,
        _ => return None,
    };
    let number = u64::from_le_bytes(*bytes.get(4..)?.first_chunk()?);
    let length = u32::from_le_bytes(*bytes.get(12..)?.first_chunk()?);
    let crc = u32::from_le_bytes(*bytes.get(16..)?.first_chunk()?);
    let size = usize::try_from(length).ok().filter(|size| *size <= MAX_PAYLOAD)?;
    let payload = bytes.get(HEAD..HEAD + size)?;
    (crc == checksum(&bytes[..16], payload)).then_some(Frame { number, is_snapshot, payload })
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

/// A record as written to the file: both copies of its frame.
fn frames(magic: [u8; 4], number: u64, payload: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_PAYLOAD)
        .ok_or_else(|| Error::new(Kind::Bug, "a journal record is too large"))?;
    let mut frame = Vec::with_capacity(2 * (HEAD + payload.len()));
    frame.extend(magic);
    frame.extend(number.to_le_bytes());
    frame.extend(length.to_le_bytes());
    frame.extend(checksum(&frame, payload).to_le_bytes());
    frame.extend(payload);
    frame.extend_from_within(..);
    Ok(frame)
}

/// Returns whether the file at `path` has a record in this format.
pub(crate) fn is_known(path: &Path) -> bool {
    let mut bytes = Vec::new();
    let read = private::open(path, OFlags::RDONLY).and_then(|mut file| file.read_to_end(&mut bytes));
    read.is_ok() && next_frame(&bytes, 0).is_some()
}

/// The changes since the last refresh.
#[derive(Debug)]
pub(crate) enum Update {
    /// The file was replaced or is shorter: drop everything read before, then apply these records.
    Replaced(Scan),
    /// The file has only grown.
    Appended(Scan),
}

/// One process' view of the journal: which file it has read, and how far.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// Kept open so that its inode number cannot be reused for another file.
    seen: Option<File>,
    /// Bytes of `seen` that were read as good frames.
    read_to: u64,
    /// The number of the last record.
    last: u64,
}

impl Journal {
    /// A view of the journal at `path` that has read nothing yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, seen: None, read_to: 0, last: 0 }
    }

    /// Reads the records written since the last time, by any process.
    pub(crate) fn refresh(&mut self) -> Result<Update> {
        let path = self.path.clone();
        let doing = || format!("read {}", path.display());
        let now = match self.path.symlink_metadata() {
            Ok(now) => now,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (self.seen, self.read_to, self.last) = (None, 0, 0);
                return Ok(Update::Replaced(Scan::default()));
            }
            Err(error) => return Err(error).doing(doing),
        };
        let same = match &self.seen {
            Some(seen) => {
                let seen = seen.metadata().doing(doing)?;
                (seen.dev(), seen.ino()) == (now.dev(), now.ino()) && now.len() >= self.read_to
            }
            None => false,
        };
        if same && now.len() == self.read_to {
            return Ok(Update::Appended(Scan::default()));
        }
        if !same {
            let file = private::open(&self.path, OFlags::RDONLY);
            (self.seen, self.read_to, self.last) = (Some(file.doing(doing)?), 0, 0);
        }
        let scan = self.read_on().doing(doing)?;
        Ok(if same { Update::Appended(scan) } else { Update::Replaced(scan) })
    }

    fn read_on(&mut self) -> std::io::Result<Scan> {
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.seen {
            file.seek(SeekFrom::Start(self.read_to))?;
            file.read_to_end(&mut bytes)?;
        }
        let scan = scan(&bytes, self.last);
        self.read_to += scan.good as u64;
        self.last = scan.last;
        Ok(scan)
    }

    /// Appends one record and makes it durable; a torn tail before it is cut off.
    ///
    /// The caller holds the store's lock and has just refreshed.
    pub(crate) fn append(&mut self, payload: &[u8]) -> Result<()> {
        let frame = frames(MAGIC, self.last + 1, payload)?;
        let file = private::open_or_create(&self.path, private::FILE);
        let mut file = file.doing(|| format!("open {}", self.path.display()))?;
        let written = write_at(&mut file, self.read_to, &frame);
        if self.read_to == 0 {
            sync_dir(self.path.parent().unwrap_or(Path::new("/")))?;
        }
        if written.is_err() {
            // The disk is full: leave no half record; if this fails too, the next writer cuts it off.
            let _ = file.set_len(self.read_to);
        }
        written.doing(|| format!("write {}", self.path.display()))
    }

    /// Replaces all records by one, atomically.
    ///
    /// The caller holds the store's lock and has just refreshed.
    pub(crate) fn compact(&mut self, payload: &[u8]) -> Result<()> {
        let fresh = self.path.with_extension("new");
        let doing = || format!("write {}", fresh.display());
        let mut file = private::create(&fresh, private::FILE).doing(doing)?;
        file.write_all(&frames(SNAPSHOT, self.last + 1, payload)?).doing(doing)?;
        file.sync_all().doing(doing)?;
        std::fs::rename(&fresh, &self.path).doing(|| format!("rename {}", fresh.display()))?;
        sync_dir(self.path.parent().unwrap_or(Path::new("/")))
    }

    /// Returns whether there are bytes after the last good frame: a torn tail, or a damaged copy of the last record.
    pub(crate) fn has_tail(&self) -> Result<bool> {
        let doing = || format!("inspect {}", self.path.display());
        let Some(file) = &self.seen else { return Ok(false) };
        Ok(file.metadata().doing(doing)?.len() > self.read_to)
    }

    /// The length of the good frames in bytes.
    pub(crate) fn size_bytes(&self) -> u64 {
        self.read_to
    }
}

fn write_at(file: &mut File, at: u64, frame: &[u8]) -> std::io::Result<()> {
    let is_new = file.metadata()?.len() == 0;
    file.set_len(at)?;
    file.seek(SeekFrom::Start(at))?;
    file.write_all(frame)?;
    if is_new { file.sync_all() } else { file.sync_data() }
}

/// Makes the names in a directory durable; see fsync(2).
pub(crate) fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|dir| dir.sync_all()).doing(|| format!("sync {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payloads(update: Update) -> Vec<Vec<u8>> {
        match update {
            Update::Replaced(scan) | Update::Appended(scan) => scan.payloads,
        }
    }

    fn journal_of(dir: &Path, records: &[&[u8]]) -> Journal {
        let mut journal = Journal::new(dir.join("journal"));
        for record in records {
            journal.refresh().unwrap();
            journal.append(record).unwrap();
        }
        journal
    }

    #[test]
    fn a_second_reader_sees_each_record_once() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = journal_of(dir.path(), &[b"one"]);
        let mut reader = Journal::new(dir.path().join("journal"));
        assert_eq!(payloads(reader.refresh().unwrap()), [b"one"]);
        writer.refresh().unwrap();
        writer.append(b"two").unwrap();
        assert!(matches!(reader.refresh().unwrap(), Update::Appended(scan) if scan.payloads == [b"two"]));
        assert!(payloads(reader.refresh().unwrap()).is_empty());
    }

    #[test]
    fn a_tail_torn_at_any_byte_loses_only_the_last_record() {
        let dir = tempfile::tempdir().unwrap();
        journal_of(dir.path(), &[b"one", b"two", b"three"]);
        let path = dir.path().join("journal");
        let whole = std::fs::read(&path).unwrap();
        let two = 2 * (2 * HEAD + b"onetwo".len());
        let three = HEAD + b"three".len();
        for cut in two..two + three {
            for filler in [&b""[..], &[0; 40], &[0xff; 7]] {
                std::fs::write(&path, [&whole[..cut], filler].concat()).unwrap();
                let mut journal = Journal::new(path.clone());
                assert_eq!(payloads(journal.refresh().unwrap()), [&b"one"[..], b"two"], "cut at {cut}");
                journal.append(b"again").unwrap();
                let mut reader = Journal::new(path.clone());
                assert_eq!(
                    payloads(reader.refresh().unwrap()),
                    [&b"one"[..], b"two", b"again"],
                    "cut at {cut}"
                );
            }
        }
    }

    #[test]
    fn damage_in_one_copy_is_repaired_by_the_other_and_reported() {
        let dir = tempfile::tempdir().unwrap();
        journal_of(dir.path(), &[b"one", b"two", b"three"]);
        let whole = std::fs::read(dir.path().join("journal")).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0x10;
            let scan = scan(&bytes, 0);
            assert_eq!(scan.payloads, [&b"one"[..], b"two", b"three"], "byte {at}");
            assert!(!scan.lost && (scan.flawed || scan.good < bytes.len()), "byte {at}");
        }
    }

    #[test]
    fn damage_in_both_copies_loses_one_record_and_is_reported() {
        let dir = tempfile::tempdir().unwrap();
        journal_of(dir.path(), &[b"one", b"two", b"three"]);
        let whole = std::fs::read(dir.path().join("journal")).unwrap();
        let first = 2 * (HEAD + b"one".len());
        for (from, left) in [(0, [&b"two"[..], b"three"]), (first, [b"one", b"three"])] {
            let mut bytes = whole.clone();
            bytes[from + HEAD] ^= 1;
            bytes[from + HEAD + HEAD + b"one".len()] ^= 1;
            let scan = scan(&bytes, 0);
            assert_eq!(scan.payloads, left);
            assert!(scan.lost && scan.flawed);
            assert_eq!(scan.good, bytes.len());
        }
    }

    #[test]
    fn a_reader_notices_that_the_journal_was_compacted() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = journal_of(dir.path(), &[b"one", b"two"]);
        let mut reader = Journal::new(dir.path().join("journal"));
        reader.refresh().unwrap();
        writer.refresh().unwrap();
        writer.compact(b"both, and much longer than before").unwrap();
        assert!(matches!(reader.refresh().unwrap(), Update::Replaced(scan) if scan.payloads.len() == 1));
        reader.append(b"three").unwrap();
        assert_eq!(payloads(writer.refresh().unwrap()).len(), 2);
    }
}
