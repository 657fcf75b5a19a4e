//! A container's log in the CRI's format: `<RFC 3339 time> <stdout|stderr> <P|F> <text>`, a line each.
//!
//! A line of the container that is longer than [`LONGEST`] comes in pieces marked P, the last one F; what has no newline
//! when the container ends is P, too. A disk that is full costs the lines that do not fit, never the container's time:
//! they are counted, and a note stands in their place once there is room again.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::SeekFrom;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::keeper::own_log::warn;
use crate::keeper::protocol::Stream;
use crate::linux::private;
use crate::record::time::{now_ns, rfc3339};

/// The most of a container's text in one line of the log, in bytes; as containerd's.
pub(in crate::keeper) const LONGEST: usize = 16 << 10;

/// A log file, or none.
#[derive(Debug, Default)]
pub(in crate::keeper) struct Log {
    path: Option<PathBuf>,
    file: Option<OwnedFd>,
    pub(in crate::keeper) lost: Lost,
}

/// What could not be written, and the errno that kept it from being.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::keeper) struct Lost {
    lines: u64,
    bytes: u64,
    why: Option<i32>,
}

/// Lines on their way to a file.
#[derive(Debug, Default)]
pub(in crate::keeper) struct Batch {
    text: Vec<u8>,
    stamp: String,
    lines: u64,
    bytes: u64,
}

impl Log {
    /// The log at this path; without one nothing is kept.
    pub(in crate::keeper) fn new(path: Option<PathBuf>) -> Self {
        let mut log = Self { path, ..Self::default() };
        // What keeps it from being opened may pass: it is tried again with each batch.
        if let (Err(error), Some(path)) = (log.open(), &log.path) {
            warn(&format!("open the log {}: {error}", path.display()));
        }
        log
    }

    fn open(&mut self) -> std::io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        self.file = Some(private::open_log(path)?.into());
        Ok(())
    }

    /// Opens the file at its path anew, which another has moved away. When that fails the old one goes on being used.
    pub(in crate::keeper) fn reopen(&mut self) -> std::io::Result<()> {
        self.open()
    }

    /// Writes a batch and empties it, or counts it as lost.
    pub(in crate::keeper) fn write(&mut self, batch: &mut Batch) {
        if self.path.is_some() && !batch.text.is_empty() {
            let note = self.note(&batch.stamp);
            match self.append(note.as_bytes(), &batch.text) {
                Ok(()) => self.lost = Lost::default(),
                Err(errno) => {
                    self.lost.lines += batch.lines;
                    self.lost.bytes += batch.bytes;
                    self.lost.why = Some(errno.raw_os_error());
                }
            }
        }
        batch.clear();
    }

    /// What stands in the place of lines that were lost.
    fn note(&self, stamp: &str) -> String {
        let Lost { lines, bytes, why: Some(why) } = &self.lost else { return String::new() };
        let why = std::io::Error::from_raw_os_error(*why).kind();
        format!(
            "{stamp} stderr F coracle-keeper: {lines} lines ({bytes} bytes) of output were dropped: {why}\n"
        )
    }

    /// Both texts whole, or neither.
    fn append(&mut self, note: &[u8], text: &[u8]) -> Result<(), Errno> {
        if self.file.is_none() {
            // What is refused by its kind has no errno.
            self.open().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
        }
        let Some(file) = &self.file else { return Ok(()) };
        let mut written = 0;
        for mut rest in [note, text] {
            while !rest.is_empty() {
                match rustix::io::write(file, rest) {
                    Ok(count) => {
                        written += count;
                        rest = &rest[count..];
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => {
                        if written > 0 {
                            take_back(file, written);
                        }
                        return Err(errno);
                    }
                }
            }
        }
        Ok(())
    }

    /// At the container's end: the note of what was lost last.
    pub(in crate::keeper) fn finish(&mut self) {
        if self.lost.why.is_some() {
            let note = self.note(&rfc3339(now_ns()));
            let _ = self.append(note.as_bytes(), b"");
        }
    }
}

/// Cuts off what was just appended: half a line is worse than none.
fn take_back(file: &OwnedFd, written: usize) {
    if let Ok(end) = rustix::fs::seek(file, SeekFrom::End(0)) {
        let _ = rustix::fs::ftruncate(file, end.saturating_sub(written as u64));
    }
}

impl Batch {
    /// Begins a batch: all its lines bear the same time.
    pub(in crate::keeper) fn begin(&mut self) {
        self.stamp = rfc3339(now_ns());
    }

    /// Adds one line; `whole` is F, else P.
    pub(in crate::keeper) fn push(&mut self, stream: Stream, whole: bool, content: &[u8]) {
        let name = match stream {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        };
        let tag = if whole { "F" } else { "P" };
        // Writing to a Vec cannot fail.
        let _ = write!(self.text, "{} {name} {tag} ", self.stamp);
        self.text.extend_from_slice(content);
        self.text.push(b'\n');
        self.lines += 1;
        self.bytes += content.len() as u64;
    }

    /// The length of what waits to be written, in bytes.
    pub(in crate::keeper) fn len(&self) -> usize {
        self.text.len()
    }

    fn clear(&mut self) {
        self.text.clear();
        (self.lines, self.bytes) = (0, 0);
    }
}

/// One line of the container's at the start of `raw`: how many bytes it takes, whether it is whole, and its content.
/// `None` when it goes on behind what there is; `all` takes that, too.
pub(in crate::keeper) fn next_line(raw: &[u8], all: bool) -> Option<(usize, bool, &[u8])> {
    let window = &raw[..raw.len().min(LONGEST + 1)];
    if let Some(at) = window.iter().position(|byte| *byte == b'\n') {
        let content = &window[..at];
        return Some((at + 1, true, content.strip_suffix(b"\r").unwrap_or(content)));
    }
    match (window.len() > LONGEST, all && !raw.is_empty()) {
        (true, _) => Some((LONGEST, false, &window[..LONGEST])),
        (false, true) => Some((raw.len(), false, raw)),
        (false, false) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_at_newlines_and_at_the_limit() {
        assert_eq!(next_line(b"one\ntwo\n", false), Some((4, true, &b"one"[..])));
        assert_eq!(next_line(b"one\r\n", false), Some((5, true, &b"one"[..])));
        assert_eq!(next_line(b"\n", false), Some((1, true, &b""[..])));
        assert_eq!(next_line(b"tail", false), None);
        assert_eq!(next_line(b"tail", true), Some((4, false, &b"tail"[..])));
        assert_eq!(next_line(b"", true), None);
        let long = vec![b'x'; LONGEST + 1];
        assert_eq!(next_line(&long, false), Some((LONGEST, false, &long[..LONGEST])));
        assert_eq!(next_line(&long[..LONGEST], false), None, "the newline may be the next byte");
        let exact = [&long[..LONGEST], b"\n"].concat();
        assert_eq!(next_line(&exact, false), Some((LONGEST + 1, true, &long[..LONGEST])));
    }

    #[test]
    fn a_full_disk_costs_lines_and_says_how_many() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap().join("log");
        let mut log = Log::new(Some(path.clone()));
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        log.file = Some(full.into());
        let mut batch = Batch::default();
        let push = |batch: &mut Batch, text: &[u8]| {
            batch.begin();
            batch.push(Stream::Stdout, true, text);
        };
        push(&mut batch, b"lost");
        log.write(&mut batch);
        assert_eq!((log.lost.lines, log.lost.bytes, batch.len()), (1, 4, 0));
        log.reopen().unwrap();
        push(&mut batch, b"kept");
        log.write(&mut batch);
        let text = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = text.lines().map(|l| l.split_once(' ').unwrap().1).collect();
        assert!(lines[0].starts_with("stderr F coracle-keeper: 1 lines (4 bytes) of output were dropped: "));
        assert_eq!(lines[1..], ["stdout F kept"]);
    }

    #[test]
    fn what_is_put_in_a_logs_place_is_neither_waited_for_nor_written_to() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().canonicalize().unwrap().join(name);
        private::fifo(&at("fifo"), private::FILE).unwrap();
        std::fs::write(at("victim"), "kept").unwrap();
        std::os::unix::fs::symlink(at("victim"), at("link")).unwrap();
        for name in ["fifo", "link"] {
            let mut log = Log::new(Some(at(name)));
            let mut batch = Batch::default();
            batch.begin();
            batch.push(Stream::Stdout, true, b"lost");
            log.write(&mut batch);
            assert_eq!(log.lost.lines, 1, "{name}");
            assert!(log.reopen().is_err(), "{name}");
        }
        assert_eq!(std::fs::read_to_string(at("victim")).unwrap(), "kept");
    }
}
