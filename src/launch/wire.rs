//! The messages between parent and child from clone to execve: fixed-size, over a socket pair.
//!
//! Both ends are the same program, with two exceptions: a container's first process waits for a `start` that may come
//! from another release, and a keeper's child reports to its client. So each message has the version of [`PLAN`] in
//! the upper half of its first word. Releases before there were versions have 0 there; their messages are accepted as
//! long as the layout is the same.
//!
//! The child's end is close-on-exec: end of file while the child lives means that the payload runs.

use std::fmt;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use super::deadline::Deadline;
use crate::error::{Cause, Kind};
use crate::record::format::{PLAN, Unreadable};

/// Size of a message on the wire.
const SIZE: usize = 20;

/// A message of the child to its parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The namespaces are complete: the parent runs the prestart and createRuntime hooks, then replies.
    Hooks,
    /// The set-up is complete; the child waits to be started.
    Ready,
    /// The seccomp listener is this descriptor of the child; the parent fetches it, then replies.
    Listener(i32),
    /// The process continues as a forked copy, a child of the same parent. The original reports the pid, the copy
    /// reports 0. Both report because the copy may be stopped before it can, and the original may be killed.
    Forked(i32),
    /// A step failed.
    Failed(Failure),
}

/// The step that failed, the operation and its errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Position in the plan's steps.
    pub step: u32,
    /// The operation within the step.
    pub op: Op,
    /// The item the operation was at, by position: for fsconfig, the parameter.
    pub detail: u32,
    /// The errno of the operation.
    pub errno: Errno,
}

/// A message of the parent to the child: one byte each, because they may arrive before the child waits for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Permission {
    /// The id maps and cgroups are set up.
    SetUp = 1,
    /// The hooks have run.
    Hooks = 2,
    /// The seccomp listener was fetched.
    Listener = 4,
    /// Execute the last steps.
    Go = 8,
}

macro_rules! ops {
    ($($name:ident = $text:literal),* $(,)?) => {
        /// An operation of a step, by the name that strace shows.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Op { $(#[doc = $text] $name),* }

        impl Op {
            const ALL: &'static [Op] = &[$(Op::$name),*];
        }

        impl fmt::Display for Op {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Op::$name => $text),* })
            }
        }
    };
}

ops! {
    Access = "faccessat",
    Capset = "capset",
    Chdir = "chdir",
    Chown = "fchown",
    Chroot = "chroot",
    CloseRange = "close_range",
    CopyUp = "copy what the mount point holds",
    CurrentDirectory = "getcwd",
    Dup = "dup2",
    Execve = "execve",
    Fork = "clone3",
    FsConfig = "fsconfig",
    FsCreate = "fsconfig(CMD_CREATE)",
    FsMount = "fsmount",
    FsOpen = "fsopen",
    GetDents = "getdents64",
    HookExit = "it exited with an error",
    HookTimeout = "it took longer than its timeout",
    IoPriority = "ioprio_set",
    Keyring = "keyctl",
    Link = "symlinkat",
    Loopback = "ioctl(SIOCSIFFLAGS)",
    Mkdir = "mkdirat",
    Mknod = "mknodat",
    Mount = "mount",
    MoveMount = "move_mount",
    NoNewPrivs = "prctl(PR_SET_NO_NEW_PRIVS)",
    Open = "openat2",
    OpenTree = "open_tree",
    OnProc = "the mount point is on /proc",
    OutsideRoot = "the directory is outside the container's root",
    Parent = "read from the parent",
    Personality = "personality",
    PivotRoot = "pivot_root",
    Prctl = "prctl",
    Pty = "open a terminal",
    Rlimit = "setrlimit",
    Scheduler = "sched_setattr",
    Seccomp = "seccomp",
    Send = "sendmsg",
    SetAttr = "mount_setattr",
    SetGroups = "setgroups",
    SetIds = "setresuid",
    SetName = "sethostname",
    Setns = "setns",
    Setsid = "setsid",
    Start = "accept on the start socket",
    Stat = "fstat",
    Umount = "umount2",
    Unshare = "unshare",
    Wait = "waitid",
    Write = "write",
}

impl Report {
    fn encode(self) -> [u8; SIZE] {
        let (kind, step, op, code, detail) = match self {
            Self::Hooks => (1, 0, 0, 0, 0),
            Self::Ready => (2, 0, 0, 0, 0),
            Self::Listener(fd) => (3, 0, 0, fd, 0),
            Self::Forked(pid) => (5, 0, 0, pid, 0),
            Self::Failed(f) => (4, f.step, f.op as u32, f.errno.raw_os_error(), f.detail),
        };
        let mut bytes = [0; SIZE];
        bytes[0..4].copy_from_slice(&u32::to_ne_bytes(u32::from(PLAN.version) << 16 | kind));
        bytes[4..8].copy_from_slice(&u32::to_ne_bytes(step));
        bytes[8..12].copy_from_slice(&u32::to_ne_bytes(op));
        bytes[12..16].copy_from_slice(&i32::to_ne_bytes(code));
        bytes[16..20].copy_from_slice(&u32::to_ne_bytes(detail));
        bytes
    }

    /// Parses a message.
    fn decode(bytes: &[u8]) -> Result<Self, ReceiveError> {
        let head = bytes.first_chunk().map(|head| u32::from_ne_bytes(*head)).ok_or(Errno::PROTO)?;
        match u16::try_from(head >> 16) {
            Ok(0) => {}
            Ok(version) if version == PLAN.version => {}
            Ok(found) => return Err(ReceiveError::Version(Unreadable::Version { format: PLAN, found })),
            Err(_) => return Err(Errno::PROTO.into()),
        }
        Ok(Self::decode_kind(head & 0xffff, bytes).ok_or(Errno::PROTO)?)
    }

    fn decode_kind(kind: u32, bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
        let code = i32::from_ne_bytes(word(12)?);
        Some(match kind {
            1 => Self::Hooks,
            2 => Self::Ready,
            3 => Self::Listener(code),
            5 => Self::Forked(code),
            4 => Self::Failed(Failure {
                step: u32::from_ne_bytes(word(4)?),
                op: *Op::ALL.get(usize::try_from(u32::from_ne_bytes(word(8)?)).ok()?)?,
                detail: u32::from_ne_bytes(word(16)?),
                errno: Errno::from_raw_os_error(code),
            }),
            _ => return None,
        })
    }
}

/// The reason why no message was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiveError {
    /// The errno of recvmsg(2); `EPROTO` for a malformed message; `ETIMEDOUT`.
    Errno(Errno),
    /// The sender is another release with another version.
    Version(Unreadable),
}

impl From<Errno> for ReceiveError {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl fmt::Display for ReceiveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Errno(errno) => errno.fmt(f),
            Self::Version(unreadable) => unreadable.fmt(f),
        }
    }
}

impl std::error::Error for ReceiveError {}

impl Cause for ReceiveError {
    fn kind(&self) -> Kind {
        match self {
            Self::Errno(errno) => Cause::kind(errno),
            Self::Version(_) => Kind::Unsupported,
        }
    }
}

/// Sends one message. Child-safe.
///
/// # Errors
/// The errno of send(2).
pub fn send_report(socket: BorrowedFd<'_>, report: Report) -> Result<(), Errno> {
    send(socket, &report.encode())
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8]) -> Result<(), Errno> {
    loop {
        match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// A message with its sender.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// The content of the message.
    pub report: Report,
    /// The pid of the sender as the receiver sees it; 0 unless [`pass_credentials`] was called.
    pub sender: i32,
}

/// Makes the socket pass the sender's pid to [`receive_report`] (unix(7), SO_PASSCRED).
///
/// # Errors
/// The errno of setsockopt(2).
pub fn pass_credentials(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::net::sockopt::set_socket_passcred(socket, true)
}

/// Waits until the deadline for one message; `None` at end of file.
///
/// # Errors
/// See [`ReceiveError`].
pub fn receive_report(socket: BorrowedFd<'_>, deadline: &Deadline) -> Result<Option<Message>, ReceiveError> {
    deadline.wait_readable(socket)?;
    let mut bytes = [0; SIZE];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = loop {
        let mut into = [IoSliceMut::new(&mut bytes)];
        match rustix::net::recvmsg(socket, &mut into, &mut control, RecvFlags::empty()) {
            Err(Errno::INTR) => {}
            // A child that dies with unread data resets the connection. The kernel reports that once, before the
            // child's last messages; reading again returns those, or end of file.
            Err(Errno::CONNRESET) => {}
            other => break other?.bytes,
        }
    };
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => Some(credentials.pid.as_raw_nonzero().get()),
        _ => None,
    });
    match length {
        0 => Ok(None),
        SIZE => Ok(Some(Message { report: Report::decode(&bytes)?, sender: sender.unwrap_or_default() })),
        _ => Err(Errno::PROTO.into()),
    }
}

/// Waits until the other end is closed, without reading. Child-safe.
pub fn await_end(socket: BorrowedFd<'_>) {
    let mut watched = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    while poll(&mut watched, None) == Err(Errno::INTR) {}
}

/// Whether the other end is closed. Child-safe.
pub fn peer_is_gone(socket: BorrowedFd<'_>) -> bool {
    let mut watched = [PollFd::from_borrowed_fd(socket, PollFlags::empty())];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut watched, Some(&now)).is_ok_and(|count| count > 0)
}

fn read_whole(socket: BorrowedFd<'_>, bytes: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match rustix::io::read(socket, &mut *bytes) {
            Err(Errno::INTR | Errno::CONNRESET) => {}
            other => return other,
        }
    }
}

/// Sends the child a permission.
///
/// # Errors
/// The errno of send(2).
pub fn permit(socket: BorrowedFd<'_>, permission: Permission) -> Result<(), Errno> {
    send(socket, &[permission as u8])
}

/// Waits for a permission; `had` keeps those that arrived early. End of file is `EPIPE`: the parent is gone.
/// Child-safe.
///
/// # Errors
/// The errno of read(2).
pub fn await_permission(socket: BorrowedFd<'_>, wanted: Permission, had: &mut u8) -> Result<(), Errno> {
    while *had & wanted as u8 == 0 {
        let mut byte = [0];
        match read_whole(socket, &mut byte)? {
            0 => return Err(Errno::PIPE),
            _ => *had |= byte[0],
        }
    }
    Ok(())
}

/// Sends a descriptor with a few bytes that describe it. Child-safe.
///
/// # Errors
/// The errno of sendmsg(2).
pub fn send_fd(socket: BorrowedFd<'_>, name: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
    let fds = [fd];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(name)], &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Receives a descriptor sent with [`send_fd`], waiting until the deadline.
///
/// # Errors
/// The errno of recvmsg(2); `EPIPE` when none comes; `ETIMEDOUT`.
pub fn receive_fd(socket: BorrowedFd<'_>, deadline: &Deadline) -> Result<OwnedFd, Errno> {
    deadline.wait_readable(socket)?;
    let mut name = [0; 64];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut name)], &mut control, flags)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut passed) => passed.next(),
        _ => None,
    });
    fd.ok_or(Errno::PIPE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_wire() {
        let failure = Failure { step: 7, op: Op::FsMount, detail: 3, errno: Errno::PERM };
        for report in
            [Report::Hooks, Report::Ready, Report::Listener(9), Report::Forked(7), Report::Failed(failure)]
        {
            assert_eq!(Report::decode(&report.encode()), Ok(report));
        }
    }

    #[test]
    fn a_permission_may_come_before_its_time() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        use std::os::fd::AsFd;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        permit(ours.as_fd(), Permission::Go).unwrap();
        permit(ours.as_fd(), Permission::Hooks).unwrap();
        let mut had = 0;
        await_permission(theirs.as_fd(), Permission::Hooks, &mut had).unwrap();
        await_permission(theirs.as_fd(), Permission::Go, &mut had).unwrap();
        drop(ours);
        assert_eq!(await_permission(theirs.as_fd(), Permission::SetUp, &mut had), Err(Errno::PIPE));
    }

    #[test]
    fn the_last_word_of_a_child_is_heard_though_it_left_something_unread() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        use std::os::fd::AsFd;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        permit(ours.as_fd(), Permission::Go).unwrap();
        send_report(theirs.as_fd(), Report::Ready).unwrap();
        drop(theirs);
        let soon = Deadline::after(std::time::Duration::from_secs(5));
        assert_eq!(
            receive_report(ours.as_fd(), &soon),
            Ok(Some(Message { report: Report::Ready, sender: 0 }))
        );
        assert_eq!(receive_report(ours.as_fd(), &soon), Ok(None));
    }

    #[test]
    fn who_is_silent_is_not_waited_for_longer_than_the_deadline() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        use std::os::fd::AsFd;
        let (ours, _theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let deadline = Deadline::after(std::time::Duration::from_millis(10));
        assert_eq!(receive_report(ours.as_fd(), &deadline), Err(Errno::TIMEDOUT.into()));
    }

    #[test]
    fn the_kernel_says_who_sends() {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        use std::os::fd::AsFd;
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        pass_credentials(ours.as_fd()).unwrap();
        send_report(theirs.as_fd(), Report::Forked(0)).unwrap();
        let soon = Deadline::after(std::time::Duration::from_secs(5));
        let sender = std::process::id().cast_signed();
        assert_eq!(
            receive_report(ours.as_fd(), &soon),
            Ok(Some(Message { report: Report::Forked(0), sender }))
        );
    }

    #[test]
    fn noise_is_not_a_word() {
        assert!(Report::decode(&[0xff; SIZE]).is_err());
        let empty: Result<Report, ReceiveError> = Report::decode(&[]);
        assert_eq!(empty, Err(Errno::PROTO.into()));
    }

    #[test]
    fn a_message_of_another_release_is_refused_by_its_version() {
        let with_version = |version: u32| {
            let mut bytes = Report::Ready.encode();
            bytes[0..4].copy_from_slice(&u32::to_ne_bytes(version << 16 | 2));
            Report::decode(&bytes)
        };
        assert_eq!(with_version(0), Ok(Report::Ready), "before there were versions");
        assert_eq!(with_version(PLAN.version.into()), Ok(Report::Ready));
        let error = with_version(9).unwrap_err();
        assert!(error.to_string().contains("version 9 of the plan of a process"), "{error}");
        assert_eq!(Cause::kind(&error), Kind::Unsupported);
    }

    #[test]
    fn golden_messages() {
        let failure = Failure { step: 7, op: Op::FsMount, detail: 3, errno: Errno::PERM };
        let mut samples = vec![
            ("hooks", Report::Hooks.encode().to_vec()),
            ("ready", Report::Ready.encode().to_vec()),
            ("listener", Report::Listener(9).encode().to_vec()),
            ("forked", Report::Forked(7).encode().to_vec()),
            ("failed", Report::Failed(failure).encode().to_vec()),
        ];
        for permission in [Permission::SetUp, Permission::Hooks, Permission::Listener, Permission::Go] {
            samples.push(("permission", vec![permission as u8]));
        }
        // Operations are sent as their position.
        let operations = Op::ALL.iter().map(|op| format!("{op:?}={};", *op as u32)).collect::<String>();
        samples.push(("operations", operations.into_bytes()));
        if cfg!(target_endian = "little") {
            crate::record::golden::check("src/launch/golden", "message", PLAN, &samples);
        }
    }

    /// All types of a plan, with their fields and variants in wire order.
    #[test]
    #[cfg(feature = "node")]
    fn golden_plans() {
        use serde_reflection::{Tracer, TracerConfig};
        let mut tracer = Tracer::new(TracerConfig::default());
        // Types with variants are listed on their own: inside another type only the first variant is seen.
        tracer.trace_simple_type::<super::super::opens::Open>().unwrap();
        tracer.trace_simple_type::<super::super::steps::Source>().unwrap();
        tracer.trace_simple_type::<super::super::steps::PointKind>().unwrap();
        tracer.trace_simple_type::<super::super::steps::Step>().unwrap();
        tracer.trace_simple_type::<super::super::plan::Plan>().unwrap();
        let types = tracer.registry().unwrap();
        let layout: Vec<(&str, Vec<u8>)> =
            types.iter().map(|(name, layout)| (name.as_str(), format!("{layout:?}").into_bytes())).collect();
        crate::record::golden::check("src/launch/golden", "plan", PLAN, &layout);
    }
}
