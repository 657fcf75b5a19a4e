//! The journal: an append-only file of framed records, the only truth about what the store holds.
//!
//! ```text
//! frame    magic "cjr1" | length u32 LE | crc32 of length and payload u32 LE | payload (JSON of one event)
//! ```
//! One frame is one commit, synced before the next is written, so a power cut damages at most the last one: a torn
//! tail is cut off by the next writer. A bad stretch in the middle (flash rot) is skipped, never fatal.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::error::{Doing, Error, Kind, Result};

const MAGIC: [u8; 4] = *b"cjr1";
const HEAD: usize = 12;
/// Far above any real record; a length beyond it is damage.
const MAX_PAYLOAD: usize = 64 << 20;

/// What a reader got out of some journal bytes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// The payloads of the good frames, in order.
    pub(crate) payloads: Vec<Vec<u8>>,
    /// Where the last good frame ends.
    pub(crate) good: usize,
    /// A bad stretch lies before a good frame.
    pub(crate) damaged: bool,
}

/// Reads frames out of `bytes`.
pub(crate) fn scan(bytes: &[u8]) -> Scan {
    let mut scan = Scan::default();
    let mut at = 0;
    while let Some((start, payload)) = next_frame(bytes, at) {
        scan.damaged |= start != at;
        at = start + HEAD + payload.len();
        scan.good = at;
        scan.payloads.push(payload.to_vec());
    }
    scan
}

/// The first good frame at or behind `from`.
fn next_frame(bytes: &[u8], from: usize) -> Option<(usize, &[u8])> {
    (from..bytes.len().saturating_sub(HEAD - 1))
        .filter(|at| bytes[*at..].starts_with(&MAGIC))
        .find_map(|at| frame_at(&bytes[at..]).map(|payload| (at, payload)))
}

fn frame_at(bytes: &[u8]) -> Option<&[u8]> {
    let length: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
    let crc = u32::from_le_bytes(bytes.get(8..HEAD)?.try_into().ok()?);
    let size = usize::try_from(u32::from_le_bytes(length)).ok().filter(|size| *size <= MAX_PAYLOAD)?;
    let payload = bytes.get(HEAD..HEAD + size)?;
    (crc == checksum(length, payload)).then_some(payload)
}

fn checksum(length: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&length);
    hasher.update(payload);
    hasher.finalize()
}

fn frame(payload: &[u8]) -> Result<Vec<u8>> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_PAYLOAD)
        .ok_or_else(|| Error::new(Kind::Bug, "a journal record is beyond all bounds"))?
        .to_le_bytes();
    let mut frame = Vec::with_capacity(HEAD + payload.len());
    frame.extend(MAGIC);
    frame.extend(length);
    frame.extend(checksum(length, payload).to_le_bytes());
    frame.extend(payload);
    Ok(frame)
}

/// News since the last look.
#[derive(Debug)]
pub(crate) enum News {
    /// The file is another one than before, or shorter: forget everything, then take these.
    Anew(Scan),
    /// It has only grown.
    More(Scan),
}

/// One process' view of the journal file: how far it has read, and of which file.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// Kept open so that its inode number cannot come back on another file.
    seen: Option<File>,
    /// Bytes of `seen` that were read as good frames.
    read_to: u64,
}

impl Journal {
    /// A view of the journal at `path` that has seen nothing yet.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, seen: None, read_to: 0 }
    }

    /// Reads what was written since the last time, by whomever.
    pub(crate) fn refresh(&mut self) -> Result<News> {
        let path = self.path.clone();
        let doing = || format!("read {}", path.display());
        let now = match self.path.symlink_metadata() {
            Ok(now) => now,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                (self.seen, self.read_to) = (None, 0);
                return Ok(News::Anew(Scan::default()));
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
            return Ok(News::More(Scan::default()));
        }
        if !same {
            let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(&self.path);
            (self.seen, self.read_to) = (Some(file.doing(doing)?), 0);
        }
        let scan = self.read_on().doing(doing)?;
        Ok(if same { News::More(scan) } else { News::Anew(scan) })
    }

    fn read_on(&mut self) -> std::io::Result<Scan> {
        let mut bytes = Vec::new();
        if let Some(file) = &mut self.seen {
            file.seek(SeekFrom::Start(self.read_to))?;
            file.read_to_end(&mut bytes)?;
        }
        let scan = scan(&bytes);
        self.read_to += scan.good as u64;
        Ok(scan)
    }

    /// Appends one record and makes it durable; a torn tail before it is cut off.
    ///
    /// The caller holds the store's lock and has just refreshed.
    pub(crate) fn append(&mut self, payload: &[u8]) -> Result<()> {
        let frame = frame(payload)?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&self.path)
            .doing(|| format!("open {}", self.path.display()))?;
        let written = write_at(&mut file, self.read_to, &frame);
        if self.read_to == 0 {
            sync_dir(self.path.parent().unwrap_or(Path::new("/")))?;
        }
        if written.is_err() {
            // No room: leave no half record behind; should this fail too, the next writer cuts it off.
            let _ = file.set_len(self.read_to);
        }
        written.doing(|| format!("write {}", self.path.display()))
    }

    /// Puts one record in the place of all, atomically.
    ///
    /// The caller holds the store's lock and has just refreshed.
    pub(crate) fn compact(&mut self, payload: &[u8]) -> Result<()> {
        let fresh = self.path.with_extension("new");
        let doing = || format!("write {}", fresh.display());
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&fresh)
            .doing(doing)?;
        file.write_all(&frame(payload)?).doing(doing)?;
        file.sync_all().doing(doing)?;
        std::fs::rename(&fresh, &self.path).doing(|| format!("rename {}", fresh.display()))?;
        sync_dir(self.path.parent().unwrap_or(Path::new("/")))
    }

    /// How many bytes of good frames the file has.
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

    fn payloads(news: News) -> Vec<Vec<u8>> {
        match news {
            News::Anew(scan) | News::More(scan) => scan.payloads,
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
        assert!(matches!(reader.refresh().unwrap(), News::More(scan) if scan.payloads == [b"two"]));
        assert!(payloads(reader.refresh().unwrap()).is_empty());
    }

    #[test]
    fn a_tail_torn_at_any_byte_loses_only_the_last_record() {
        let dir = tempfile::tempdir().unwrap();
        journal_of(dir.path(), &[b"one", b"two", b"three"]);
        let path = dir.path().join("journal");
        let whole = std::fs::read(&path).unwrap();
        let two = 2 * HEAD + b"onetwo".len();
        for cut in two..whole.len() {
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
    fn rot_in_the_middle_loses_one_record_and_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        journal_of(dir.path(), &[b"one", b"two", b"three"]);
        let mut bytes = std::fs::read(dir.path().join("journal")).unwrap();
        bytes[2 * HEAD + b"one".len()] ^= 1;
        let scan = scan(&bytes);
        assert_eq!(scan.payloads, [&b"one"[..], b"three"]);
        assert!(scan.damaged);
        assert_eq!(scan.good, bytes.len());
    }

    #[test]
    fn a_reader_notices_that_the_journal_was_compacted() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = journal_of(dir.path(), &[b"one", b"two"]);
        let mut reader = Journal::new(dir.path().join("journal"));
        reader.refresh().unwrap();
        writer.refresh().unwrap();
        writer.compact(b"both, and much longer than before").unwrap();
        assert!(matches!(reader.refresh().unwrap(), News::Anew(scan) if scan.payloads.len() == 1));
        reader.append(b"three").unwrap();
        assert_eq!(payloads(writer.refresh().unwrap()).len(), 2);
    }
}
