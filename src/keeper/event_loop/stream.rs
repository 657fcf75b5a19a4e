//! What a container writes goes to its log and to attached clients.
//!
//! A FIFO is looked at with tee(2) before it is read: lines that are whole go to the log and only then out of the FIFO, and
//! the beginning of a line stays in there until its end comes. So a kill of
//! the keeper loses no output; after a kill between the two, the next keeper logs these lines again. A terminal has no tee(2):
//! its output is read, and the beginning of a line is held in memory.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags, pipe_with, tee};

use super::log::{Batch, LONGEST, Log, next_line};
use crate::keeper::protocol::Stream;

/// How much is looked at in one go: more than the longest line.
const WINDOW: usize = 2 * LONGEST;

/// Lines are written to the log once there are this many bytes of them.
const ENOUGH: usize = 48 << 10;

/// How often one stream is looked at before the others have their turn.
const TURNS: u32 = 4;

/// Buffers that all streams share.
#[derive(Debug)]
pub(in crate::keeper) struct Desk {
    copy_in: OwnedFd,
    copy_out: OwnedFd,
    raw: Vec<u8>,
    batch: Batch,
}

/// One stream that a container writes.
#[derive(Debug)]
pub(in crate::keeper) struct Source {
    pub(in crate::keeper) fd: OwnedFd,
    stream: Stream,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// `seen` bytes at its start have been shown, and wait for the rest of their line.
    Fifo { seen: usize },
    /// What was read of a line whose end has not come.
    Terminal { tail: Vec<u8> },
}

/// What is left after reading a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::keeper) enum Look {
    /// There is nothing more now.
    Empty,
    /// There is more: it is to have another turn.
    More,
    /// Nobody will write to it any more.
    Closed,
}

impl Desk {
    pub(in crate::keeper) fn new() -> Result<Self, Errno> {
        let (copy_out, copy_in) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { copy_in, copy_out, raw: vec![0; WINDOW], batch: Batch::default() })
    }
}

/// Where a stream goes.
struct Way<'a> {
    desk: &'a mut Desk,
    log: &'a mut Log,
    show: &'a mut dyn FnMut(&[u8]),
    /// Nothing more comes: the beginning of a line is all there is of it.
    last: bool,
}

impl Source {
    /// A FIFO of which `seen` bytes have been shown already.
    pub(in crate::keeper) fn fifo(fd: OwnedFd, stream: Stream, seen: usize) -> Self {
        Self { fd, stream, kind: Kind::Fifo { seen } }
    }

    pub(in crate::keeper) fn terminal(fd: OwnedFd, tail: Vec<u8>) -> Self {
        Self { fd, stream: Stream::Stdout, kind: Kind::Terminal { tail } }
    }

    /// What of a terminal's output is not in the log yet.
    pub(in crate::keeper) fn tail(&self) -> &[u8] {
        match &self.kind {
            Kind::Fifo { .. } => &[],
            Kind::Terminal { tail } => tail,
        }
    }

    /// Bytes of a FIFO that those who are attached have seen and the log has not.
    pub(in crate::keeper) fn seen(&self) -> usize {
        match self.kind {
            Kind::Fifo { seen } => seen,
            Kind::Terminal { .. } => 0,
        }
    }

    /// Logs what there is, and shows what is new, for a few turns.
    pub(in crate::keeper) fn look(
        &mut self,
        desk: &mut Desk,
        log: &mut Log,
        show: &mut dyn FnMut(&[u8]),
    ) -> Look {
        for _ in 0..TURNS {
            match self.turn(&mut Way { desk, log, show, last: false }) {
                Look::More => {}
                done => return done,
            }
        }
        Look::More
    }

    /// At the container's end: all that it has written, the last line even without its newline. What others write to
    /// the same stream after that is not waited for.
    pub(in crate::keeper) fn drain(&mut self, desk: &mut Desk, log: &mut Log, show: &mut dyn FnMut(&[u8])) {
        // As many windows as a pipe of the largest size has.
        for _ in 0..(1 << 20) / WINDOW {
            if self.turn(&mut Way { desk, log, show, last: false }) != Look::More {
                break;
            }
        }
        self.turn(&mut Way { desk, log, show, last: true });
    }

    /// Logs the beginning of a line that only this process has.
    pub(in crate::keeper) fn settle(&mut self, desk: &mut Desk, log: &mut Log) {
        let Kind::Terminal { tail } = &mut self.kind else { return };
        if !tail.is_empty() {
            desk.batch.begin();
            desk.batch.push(self.stream, false, tail);
            log.write(&mut desk.batch);
            tail.clear();
        }
    }

    fn turn(&mut self, way: &mut Way<'_>) -> Look {
        way.desk.batch.begin();
        match &mut self.kind {
            Kind::Fifo { seen } => look_at_fifo(&self.fd, self.stream, seen, way),
            Kind::Terminal { tail } => read_terminal(&self.fd, tail, way),
        }
    }
}

fn look_at_fifo(fifo: &OwnedFd, stream: Stream, seen: &mut usize, way: &mut Way<'_>) -> Look {
    let Way { desk, log, show, last } = way;
    let length = match tee(fifo, &desk.copy_in, WINDOW, SpliceFlags::NONBLOCK) {
        Ok(0) | Err(Errno::AGAIN) => return Look::Empty,
        Ok(length) => fill(&desk.copy_out, &mut desk.raw[..length]),
        Err(Errno::INTR) => return Look::More,
        Err(_) => return Look::Closed,
    };
    if length <= *seen && !*last {
        return Look::Empty;
    }
    show(&desk.raw[(*seen).min(length)..length]);
    let mut taken = 0;
    let mut written = 0;
    while let Some((size, whole, content)) = next_line(&desk.raw[taken..length], *last) {
        desk.batch.push(stream, whole, content);
        taken += size;
        if desk.batch.len() >= ENOUGH {
            log.write(&mut desk.batch);
            written += consume(fifo, taken - written);
        }
    }
    if taken == 0 && is_full(fifo) {
        // Many small pieces can fill a pipe before a line is long enough to be cut: its writer must not wait for us.
        desk.batch.push(stream, false, &desk.raw[..length]);
        taken = length;
    }
    log.write(&mut desk.batch);
    consume(fifo, taken - written);
    *seen = length - taken;
    if taken == 0 { Look::Empty } else { Look::More }
}

/// Reads from a pipe of ours exactly what was put there.
fn fill(from: &OwnedFd, buffer: &mut [u8]) -> usize {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::read(from, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    filled
}

/// Takes out of a FIFO what is in the log by now.
fn consume(fifo: &OwnedFd, length: usize) -> usize {
    let mut junk = [0; 4096];
    let mut left = length;
    while left > 0 {
        let wanted = left.min(junk.len());
        match rustix::io::read(fifo, &mut junk[..wanted]) {
            Ok(0) => break,
            Ok(count) => left -= count,
            Err(Errno::INTR) => {}
            Err(_) => break,
        }
    }
    length
}

fn is_full(fifo: &OwnedFd) -> bool {
    let mut asked = [PollFd::new(fifo, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut asked, Some(&now)).is_ok() && !asked[0].revents().contains(PollFlags::OUT)
}

fn read_terminal(master: &OwnedFd, tail: &mut Vec<u8>, way: &mut Way<'_>) -> Look {
    let Way { desk, log, show, last } = way;
    let look = match rustix::io::read(master.as_fd(), &mut desk.raw) {
        // EIO is how a terminal says that nobody has it open any more.
        Ok(0) | Err(Errno::IO) => Look::Closed,
        Ok(length) => {
            show(&desk.raw[..length]);
            tail.extend_from_slice(&desk.raw[..length]);
            Look::More
        }
        Err(Errno::INTR) => Look::More,
        Err(Errno::AGAIN) => Look::Empty,
        Err(_) => Look::Closed,
    };
    let mut taken = 0;
    while let Some((size, whole, content)) = next_line(&tail[taken..], *last) {
        desk.batch.push(Stream::Stdout, whole, content);
        taken += size;
        if desk.batch.len() >= ENOUGH {
            log.write(&mut desk.batch);
        }
    }
    log.write(&mut desk.batch);
    tail.drain(..taken);
    if tail.is_empty() && tail.capacity() > LONGEST {
        *tail = Vec::new();
    }
    look
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Rig {
        desk: Desk,
        log: Log,
        source: Source,
        writer: std::fs::File,
        path: std::path::PathBuf,
        _dir: tempfile::TempDir,
    }

    impl Rig {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("log");
            let fifo = dir.path().join("fifo");
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::NONBLOCK;
            let [reader, writer] = [(); 2].map(|()| rustix::fs::open(&fifo, flags, mode).unwrap());
            Self {
                desk: Desk::new().unwrap(),
                log: Log::new(Some(path.clone())),
                source: Source::fifo(reader, Stream::Stdout, 0),
                writer: writer.into(),
                path,
                _dir: dir,
            }
        }

        /// Writes, looks, and answers what was shown.
        fn write(&mut self, text: &[u8]) -> Vec<u8> {
            self.writer.write_all(text).unwrap();
            let mut shown = Vec::new();
            while self.source.look(&mut self.desk, &mut self.log, &mut |new| shown.extend_from_slice(new))
                == Look::More
            {}
            shown
        }

        /// The log without its times.
        fn logged(&self) -> Vec<String> {
            let text = std::fs::read_to_string(&self.path).unwrap();
            text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
        }
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_shown_at_once_and_logged_whole() {
        let mut rig = Rig::new();
        assert_eq!(rig.write(b"name: "), b"name: ");
        assert_eq!(rig.logged(), [""; 0]);
        assert_eq!(rig.write(b"x"), b"x");
        assert_eq!(rig.write(b"\nnext\npart"), b"\nnext\npart");
        assert_eq!(rig.logged(), ["stdout F name: x", "stdout F next"]);
        rig.source.drain(&mut rig.desk, &mut rig.log, &mut |new| assert!(new.is_empty(), "shown twice"));
        assert_eq!(rig.logged()[2..], ["stdout P part"]);
    }

    #[test]
    fn small_pieces_that_fill_the_pipe_do_not_stop_its_writer() {
        let mut rig = Rig::new();
        // Packets: each write takes a slot of the pipe for itself.
        let flags = rustix::fs::OFlags::DIRECT | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&rig.writer, flags).unwrap();
        for _ in 0..100 {
            rig.write(b"x");
        }
        rig.write(b"\n");
        let logged = rig.logged();
        assert!(logged.len() > 1, "{logged:?}");
        assert_eq!(logged.iter().map(|l| l.matches('x').count()).sum::<usize>(), 100);
    }
}
