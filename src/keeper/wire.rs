//! What clients and the keeper say to each other: one postcard value a message over a SOCK_SEQPACKET socket, descriptors
//! by SCM_RIGHTS. A connection asks one thing after the other; one that has attached speaks [`Frame`]s from then on.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::{Deserialize, Serialize};

use super::log::rfc3339;

/// The longest message, in bytes. Plans, which may be longer, come as files in memory.
pub(super) const MOST: usize = 64 << 10;

/// The longest piece of a stream in one frame, in bytes.
pub(super) const MOST_DATA: usize = 16 << 10;

/// As many descriptors as the kernel passes in one message (SCM_MAX_FD).
const MOST_FDS: usize = 253;

/// What becomes of a container's standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stdin {
    /// It reads end of file at once.
    #[default]
    None,
    /// It stays open until somebody closes it.
    Open,
    /// It is closed when the first client that was attached to it leaves.
    Once,
}

/// A container to be launched and kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Its name; no two live containers share one.
    pub id: String,
    /// The file that gets its output, in the CRI's format; without one it is only shown to who is attached.
    pub log: Option<PathBuf>,
    /// The file that gets its [`Exit`], as text.
    pub exit_file: Option<PathBuf>,
    /// What is executed once it has ended.
    pub exit_command: Vec<String>,
    /// The cgroup file with an `oom_kill` line.
    pub oom_file: Option<PathBuf>,
    /// Its standard input.
    pub stdin: Stdin,
    /// A cgroup v2 directory comes along, to be born in.
    pub has_cgroup: bool,
    /// The end of a socket pair comes along, over which the container's terminal comes.
    pub has_console: bool,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Launch a container: with the plan in a file, the child's end of its socket pair, perhaps the cgroup and our end for
    /// the console, then what the plan has opened. Answer: `Born` with a pidfd, or `Refused`.
    Launch(Order),
    /// The container that this connection launched stays. Answer: `Done`.
    Keep,
    /// The container that this connection launched is not to be; it is being killed. Answer: `Done`.
    GiveUp,
    /// Wait for a container's end. Answer: `Exited`, or `Refused` when there is none.
    Wait(String),
    /// Show a container's output from now on; with `stdin` it gets what the client sends. Answer: `Attached`, then frames.
    Attach {
        /// Which.
        id: String,
        /// The client's input is the container's.
        stdin: bool,
    },
    /// Close a container's standard input. Answer: `Done`.
    CloseStdin(String),
    /// Set the size of a container's terminal. Answer: `Done`.
    Resize {
        /// Which.
        id: String,
        /// Height in rows.
        rows: u16,
        /// Width in columns.
        columns: u16,
    },
    /// Open a container's log anew by its path. Answer: `Done`.
    Reopen(String),
    /// Be told of every container's end from now on. Answer: `Done`, then `Ended` each time.
    Watch,
    /// Answer: `Listed`.
    List,
    /// Execute the keeper's program anew. Answer: `Done`, before it happens.
    Upgrade,
    /// Leave all to this client, who is the keeper then. Answer: `Yours` with the listening socket and the lock, then the
    /// words that an heir hears.
    Succeed,
    /// The container that this connection launched goes on as this process, a forked copy of the first one and a child of
    /// the keeper's too; the first one is ended. Answer: `Born` with a pidfd.
    Adopt(i32),
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Reply {
    /// A container's first process, in the keeper's PID namespace; its pidfd comes along.
    Born(i32),
    /// It is done.
    Done,
    /// Frames follow.
    Attached(Terms),
    /// It cannot be done.
    Refused(Refusal),
    /// A container has ended.
    Exited(Exit),
    /// The containers, with the pids of their first processes.
    Listed(Vec<(String, i32)>),
    /// This container has ended.
    Ended(String, Exit),
    /// All this is the client's now.
    Yours,
}

/// On which terms a client is attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// The container has a terminal.
    pub terminal: bool,
    /// Its standard input is open, and what the client sends gets there.
    pub stdin: bool,
}

/// Why something cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Refusal {
    /// There is no such container.
    Unknown,
    /// There is one of that name.
    Exists,
    /// It has no open standard input, or no terminal.
    Closed,
    /// Something failed: the text says what.
    Failed(String),
}

/// How a container ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The status; 128 + the signal; 255 when nobody knows.
    pub code: u8,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// A process of it was killed for want of memory.
    pub oom: bool,
    /// The keeper was not there, and the kernel does not tell.
    pub unknown: bool,
    /// When the keeper knew of it: nanoseconds since 1970, UTC.
    pub at_ns: i64,
}

/// One of the two streams that a container writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stream {
    /// Standard output; with a terminal, all.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What goes over an attached connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frame<'a> {
    /// To the client: what the container wrote.
    Output(Stream, &'a [u8]),
    /// To the client: so many bytes were left out because it was too slow.
    Lost(u64),
    /// To the client: the end.
    Exited(Exit),
    /// To the container's standard input.
    Input(&'a [u8]),
    /// The client's input has ended.
    InputEnd,
    /// The client's terminal has this size: rows and columns.
    Resize(u16, u16),
}

/// Sends one message.
///
/// # Errors
/// The errno of sendmsg(2): `EAGAIN` when the socket does not block and is full, `EPIPE` when the other side is gone;
/// `EMSGSIZE` for what cannot be a message.
pub(super) fn send(socket: impl AsFd, message: &impl Serialize, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let bytes = postcard::to_allocvec(message).map_err(|_| Errno::MSGSIZE)?;
    if bytes.len() > MOST {
        return Err(Errno::MSGSIZE);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::MSGSIZE);
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// Receives one message into `buffer`: its length and its descriptors; 0 bytes are the end.
///
/// # Errors
/// The errno of recvmsg(2); `EMSGSIZE` for one that was too long.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> Result<(usize, Vec<OwnedFd>), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => {}
            // Who leaves without having read everything resets the connection. That is said once, and before what they
            // said last: asking again gets that, or the end.
            Err(Errno::CONNRESET) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(passed) = message {
            fds.extend(passed);
        }
    }
    match got.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        true => Err(Errno::MSGSIZE),
        false => Ok((got.bytes, fds)),
    }
}

/// Reads a message back.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    postcard::from_bytes(bytes).ok()
}

impl Exit {
    /// From the status that wait(2) gives.
    pub(super) fn from_status(status: i32) -> Self {
        let byte = |n: i32| u8::try_from(n & 0xff).unwrap_or(u8::MAX);
        match status & 0x7f {
            0 => Self { code: byte(status >> 8), ..Self::default() },
            signal => Self { code: byte(128 + signal), signal: Some(signal), ..Self::default() },
        }
    }

    /// When nobody knows.
    pub(super) fn unknown() -> Self {
        Self { code: 255, unknown: true, ..Self::default() }
    }

    /// The text of an exit file: `key=value` a line.
    pub fn to_text(&self) -> String {
        let signal = self.signal.map_or_else(String::new, |signal| format!("signal={signal}\n"));
        format!(
            "code={}\n{signal}oom={}\nunknown={}\nat={}\n",
            self.code,
            self.oom,
            self.unknown,
            rfc3339(self.at_ns)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_statuses_become_exits() {
        let exit = |code, signal| Exit { code, signal, ..Exit::default() };
        assert_eq!(Exit::from_status(3 << 8), exit(3, None));
        assert_eq!(Exit::from_status(9), exit(137, Some(9)));
        // With a core dump.
        assert_eq!(Exit::from_status(11 | 0x80), exit(139, Some(11)));
    }

    #[test]
    fn the_last_word_of_a_client_is_heard_though_it_left_something_unread() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(kind.0, kind.1, kind.2, None).unwrap();
        send(&ours, &Reply::Done, &[]).unwrap();
        send(&theirs, &Request::List, &[]).unwrap();
        drop(theirs);
        let mut buffer = [0; 64];
        let (length, _) = receive(&ours, &mut buffer).unwrap();
        assert_eq!(decode::<Request>(&buffer[..length]), Some(Request::List));
        assert_eq!(receive(&ours, &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn messages_survive_the_wire_and_noise_is_none() {
        let request = Request::Attach { id: "x".to_owned(), stdin: true };
        let bytes = postcard::to_allocvec(&request).unwrap();
        assert_eq!(decode::<Request>(&bytes), Some(request));
        let bytes = postcard::to_allocvec(&Frame::Output(Stream::Stderr, b"text")).unwrap();
        assert_eq!(decode::<Frame<'_>>(&bytes), Some(Frame::Output(Stream::Stderr, b"text")));
        assert_eq!(decode::<Request>(&[0xff; 40]), None);
        assert_eq!(decode::<Request>(&[]), None);
    }
}
