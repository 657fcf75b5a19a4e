//! What clients and the keeper say to each other: one postcard value a message over a SOCK_SEQPACKET socket, behind the
//! head that names the version ([`KEEPER_PROTOCOL`]), descriptors by SCM_RIGHTS. A connection asks one thing after the
//! other; one that has attached speaks [`Frame`]s from then on.

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

use crate::record::Exit;
use crate::record::format::{KEEPER_PROTOCOL, Unreadable};

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
    /// A cgroup v2 directory comes along, to be created in.
    pub has_cgroup: bool,
    /// The end of a socket pair comes along, over which the container's terminal comes.
    pub has_console: bool,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// Launch a container: with the plan in a file, the child's end of its socket pair, perhaps the cgroup and our end for
    /// the console, then what the plan has opened. Answer: `Spawned` with a pidfd, or `Refused`.
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
    /// Report every container's end from now on. Answer: `Done`, then `Ended` each time.
    Watch,
    /// Answer: `Listed`.
    List,
    /// Leave all to this client, who is the keeper then. Answer: `HandedOver` with the listening socket and the lock, then the
    /// messages that a standby gets.
    TakeOver,
    /// The container that this connection launched goes on as this process, a forked copy of the first one and a child of
    /// the keeper's too; the first one is ended. Answer: `Spawned` with a pidfd.
    Adopt(i32),
    /// The client has asked another keeper to launch this container, which was killed before its answer came. With
    /// `console`, our end for the terminal comes along again. Answer: `Spawned` with a pidfd, and the connection attends the
    /// container; or `Refused` when there is none, once nothing of it is left.
    Resume {
        /// Which.
        id: String,
        /// The end of a socket pair comes along, over which the container's terminal comes.
        console: bool,
    },
    /// As `Keep` and `GiveUp`, of a container that the client has launched by another keeper. Answer: `Done`, or `Refused`
    /// when there is none.
    Decide {
        /// Which.
        id: String,
        /// It stays.
        keep: bool,
    },
    /// Wait until it is decided what becomes of a launch whose client is gone. Answer: `Done` when its program was run,
    /// `Refused` when there is no such container, or none any more.
    Settle(String),
}

/// What the keeper answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Response {
    /// A container's first process, in the keeper's PID namespace; its pidfd comes along.
    Spawned(i32),
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
    HandedOver,
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
    let bytes = KEEPER_PROTOCOL.encode(message).map_err(|_| Errno::MSGSIZE)?;
    send_bytes(socket, &bytes, fds)
}

/// Sends one message as it is.
///
/// # Errors
/// As [`send`].
pub(super) fn send_bytes(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    if bytes.len() > MOST {
        return Err(Errno::MSGSIZE);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::MSGSIZE);
    }
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
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
///
/// # Errors
/// It has another version, or is none.
pub(super) fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Unreadable> {
    KEEPER_PROTOCOL.decode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_of_a_client_is_heard_though_it_left_something_unread() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let kind = (AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC);
        let (ours, theirs) = socketpair(kind.0, kind.1, kind.2, None).unwrap();
        send(&ours, &Response::Done, &[]).unwrap();
        send(&theirs, &Request::List, &[]).unwrap();
        drop(theirs);
        let mut buffer = [0; 64];
        let (length, _) = receive(&ours, &mut buffer).unwrap();
        assert_eq!(decode::<Request>(&buffer[..length]), Ok(Request::List));
        assert_eq!(receive(&ours, &mut buffer).unwrap().0, 0);
    }

    #[test]
    fn messages_survive_the_wire_and_noise_is_none() {
        let request = Request::Attach { id: "x".to_owned(), stdin: true };
        let bytes = KEEPER_PROTOCOL.encode(&request).unwrap();
        assert_eq!(decode::<Request>(&bytes), Ok(request));
        let bytes = KEEPER_PROTOCOL.encode(&Frame::Output(Stream::Stderr, b"text")).unwrap();
        assert_eq!(decode::<Frame<'_>>(&bytes), Ok(Frame::Output(Stream::Stderr, b"text")));
        assert!(decode::<Request>(&[0xff; 40]).is_err());
        assert!(decode::<Request>(&[]).is_err());
    }

    fn order() -> Order {
        Order {
            id: "box".to_owned(),
            log: Some("/var/log/box".into()),
            exit_file: Some("/run/box/exit".into()),
            exit_command: vec!["coracle".to_owned(), "rm".to_owned()],
            oom_file: Some("/sys/fs/cgroup/box/memory.events".into()),
            stdin: Stdin::Once,
            has_cgroup: true,
            has_console: false,
        }
    }

    fn exit() -> Exit {
        Exit { code: 137, signal: Some(9), oom: true, unknown: false, at_ns: 1_767_225_600_000_000_000 }
    }

    fn encoded(message: &impl Serialize) -> Vec<u8> {
        KEEPER_PROTOCOL.encode(message).unwrap()
    }

    /// A name for each: a request that is added fails to compile here.
    fn name_of(request: &Request) -> &'static str {
        match request {
            Request::Launch(_) => "launch",
            Request::Keep => "keep",
            Request::GiveUp => "give-up",
            Request::Wait(_) => "wait",
            Request::Attach { .. } => "attach",
            Request::CloseStdin(_) => "close-stdin",
            Request::Resize { .. } => "resize",
            Request::Reopen(_) => "reopen",
            Request::Watch => "watch",
            Request::List => "list",
            Request::TakeOver => "take-over",
            Request::Adopt(_) => "adopt",
            Request::Resume { .. } => "resume",
            Request::Decide { .. } => "decide",
            Request::Settle(_) => "settle",
        }
    }

    fn requests() -> Vec<Request> {
        let id = || "box".to_owned();
        vec![
            Request::Launch(order()),
            Request::Launch(Order { id: id(), stdin: Stdin::Open, ..Order::default() }),
            Request::Keep,
            Request::GiveUp,
            Request::Wait(id()),
            Request::Attach { id: id(), stdin: true },
            Request::CloseStdin(id()),
            Request::Resize { id: id(), rows: 24, columns: 80 },
            Request::Reopen(id()),
            Request::Watch,
            Request::List,
            Request::TakeOver,
            Request::Adopt(7),
            Request::Resume { id: id(), console: true },
            Request::Decide { id: id(), keep: true },
            Request::Settle(id()),
        ]
    }

    fn name_of_response(response: &Response) -> &'static str {
        match response {
            Response::Spawned(_) => "spawned",
            Response::Done => "done",
            Response::Attached(_) => "attached",
            Response::Refused(Refusal::Unknown) => "unknown",
            Response::Refused(Refusal::Exists) => "exists",
            Response::Refused(Refusal::Closed) => "closed",
            Response::Refused(Refusal::Failed(_)) => "failed",
            Response::Exited(_) => "exited",
            Response::Listed(_) => "listed",
            Response::Ended(..) => "ended",
            Response::HandedOver => "handed-over",
        }
    }

    fn responses() -> Vec<Response> {
        vec![
            Response::Spawned(7),
            Response::Done,
            Response::Attached(Terms { terminal: true, stdin: false }),
            Response::Refused(Refusal::Unknown),
            Response::Refused(Refusal::Exists),
            Response::Refused(Refusal::Closed),
            Response::Refused(Refusal::Failed("why".to_owned())),
            Response::Exited(exit()),
            Response::Listed(vec![("box".to_owned(), 7)]),
            Response::Ended("box".to_owned(), exit()),
            Response::HandedOver,
        ]
    }

    fn frames() -> Vec<(&'static str, Frame<'static>)> {
        let name = |frame: &Frame<'_>| match frame {
            Frame::Output(..) => "output",
            Frame::Lost(_) => "lost",
            Frame::Exited(_) => "exited",
            Frame::Input(_) => "input",
            Frame::InputEnd => "input-end",
            Frame::Resize(..) => "resize",
        };
        let all = [
            Frame::Output(Stream::Stdout, b"out"),
            Frame::Output(Stream::Stderr, b"err"),
            Frame::Lost(70_000),
            Frame::Exited(exit()),
            Frame::Input(b"in"),
            Frame::InputEnd,
            Frame::Resize(24, 80),
        ];
        all.into_iter().map(|frame| (name(&frame), frame)).collect()
    }

    #[test]
    fn golden_messages() {
        const GOLDEN: &str = "src/keeper/golden";
        use crate::record::golden::check;
        let samples: Vec<_> = requests().iter().map(|r| (name_of(r), encoded(r))).collect();
        check(GOLDEN, "request", KEEPER_PROTOCOL, &samples);
        let samples: Vec<_> = responses().iter().map(|r| (name_of_response(r), encoded(r))).collect();
        check(GOLDEN, "response", KEEPER_PROTOCOL, &samples);
        let samples: Vec<_> = frames().iter().map(|(name, frame)| (*name, encoded(frame))).collect();
        check(GOLDEN, "frame", KEEPER_PROTOCOL, &samples);
    }

    #[test]
    fn what_is_cut_off_or_of_another_version_is_refused_by_name() {
        use crate::record::golden::refuses_what_it_does_not_know;
        for request in requests() {
            refuses_what_it_does_not_know(KEEPER_PROTOCOL, &encoded(&request), |bytes| {
                decode::<Request>(bytes).map(drop)
            });
        }
        refuses_what_it_does_not_know(KEEPER_PROTOCOL, &encoded(&Frame::Resize(24, 80)), |bytes| {
            decode::<Frame<'_>>(bytes).map(drop)
        });
    }

    proptest::proptest! {
        #[test]
        fn noise_is_an_error_and_never_a_panic(bytes: Vec<u8>, head: bool) {
            let bytes = if head { [&KEEPER_PROTOCOL.head(), &bytes[..]].concat() } else { bytes };
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Response>(&bytes);
            if let Ok(frame) = decode::<Frame<'_>>(&bytes) {
                let again = encoded(&frame);
                proptest::prop_assert_eq!(decode(&again), Ok(frame));
            }
        }
    }
}
