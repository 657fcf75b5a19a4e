//! Exec and Attach: commands with streams to a client, and attachments to a container's own process.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use coracle_cri::streaming::{Attachment, Command, Message, Process, Streams as ClientEnds};
use coracle_cri::v1;
use rustix::fs::{Mode, OFlags};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Signal, pidfd_send_signal};

use super::Containers;
use super::exec::{cgroup_name, reap};
use crate::error::{Doing, Result};
use crate::id::ContainerId;
use crate::keeper::client::{Attached, Client};
use crate::keeper::{Frame, MOST_DATA, Stream};
use crate::launch::deadline::SET_UP_LIMIT;
use crate::oci::exec::{Added, Streams, exec_in_pod};

impl Containers {
    /// Checks that a container runs.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, `WrongState`
    pub(in crate::pod) fn expect_running(&self, id: &str) -> Result<()> {
        self.running(id).map(drop)
    }

    /// Starts a command in a running container, with streams for those that the client asks for.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`; the command cannot be run.
    pub(in crate::pod) fn start_command(&self, request: &v1::ExecRequest) -> Result<Process> {
        let container = ContainerId::parse(&self.running(&request.container_id)?.id)?;
        let (ours, theirs) = if request.tty { (Ours::default(), Streams::Terminal) } else { pipes(request)? };
        let runtime = self.host.runtime();
        let mut added =
            exec_in_pod(&runtime, &container, &request.cmd, theirs, &cgroup_name(), SET_UP_LIMIT)?;
        let streams = match added.master.take() {
            Some(master) => ClientEnds::Terminal(master),
            None => ClientEnds::Pipes { stdin: ours.stdin, stdout: ours.stdout, stderr: ours.stderr },
        };
        Ok(Process { streams, command: Box::new(StreamedCommand(added)) })
    }

    /// Attaches to a running container.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`; the keeper cannot be asked.
    pub(in crate::pod) fn attach(&self, id: &str, stdin: bool) -> Result<Box<dyn Attachment>> {
        let container = ContainerId::parse(&self.running(id)?.id)?;
        let keeper = Client::connect_for(&self.host.settings.run, &container)?;
        let attached = keeper.attach(container.as_str(), stdin)?;
        attached.set_nonblocking()?;
        Ok(Box::new(KeeperAttachment(attached)))
    }
}

/// Our ends of a command's pipes.
#[derive(Debug, Default)]
struct Ours {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

/// Pipes for the streams that are requested, and /dev/null for the others.
fn pipes(request: &v1::ExecRequest) -> Result<(Ours, Streams)> {
    let pipe = || pipe_with(PipeFlags::CLOEXEC).doing(|| "make a pipe");
    let null = || {
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .doing(|| "open /dev/null")
    };
    let (stdin, ours) = match request.stdin {
        true => pipe().map(|(theirs, ours)| (theirs, Some(ours)))?,
        false => (null()?, None),
    };
    let output = |wanted: bool| match wanted {
        true => pipe().map(|(ours, theirs)| (theirs, Some(ours))),
        false => Ok((null()?, None)),
    };
    let (stdout, out) = output(request.stdout)?;
    let (stderr, err) = output(request.stderr)?;
    Ok((Ours { stdin: ours, stdout: out, stderr: err }, Streams::Given([stdin, stdout, stderr])))
}

/// A command with streams.
#[derive(Debug)]
struct StreamedCommand(Added);

impl Command for StreamedCommand {
    fn exit_event(&self) -> io::Result<OwnedFd> {
        self.0.process.pidfd.try_clone()
    }

    fn reap(&self) -> i32 {
        reap(&self.0, true).unwrap_or_else(|error| {
            crate::log::warning(&error.doing("clean up after a command").chain());
            255
        })
    }

    fn hang_up(&self) {
        let sent = match &self.0.apart {
            Some(apart) => apart.hang_up_subgroup(),
            // The command may have ended already.
            None => pidfd_send_signal(&self.0.process.pidfd, Signal::HUP).or(Ok(())),
        };
        if let Err(error) = sent {
            crate::log::warning(&error.doing("hang up on a command").chain());
        }
    }
}

/// An attachment by way of the keeper.
#[derive(Debug)]
struct KeeperAttachment(Attached);

impl AsFd for KeeperAttachment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Attachment for KeeperAttachment {
    fn is_terminal(&self) -> bool {
        self.0.terms().terminal
    }

    fn receive(&self, buffer: &mut [u8]) -> io::Result<Message> {
        let (length, frame) = self.0.try_receive(buffer)?;
        // A frame ends with its data.
        Ok(match frame {
            Some(Frame::Output(Stream::Stdout, data)) => Message::Stdout(length - data.len()..length),
            Some(Frame::Output(Stream::Stderr, data)) => Message::Stderr(length - data.len()..length),
            Some(Frame::Lost(bytes)) => Message::Lost(bytes),
            Some(Frame::Exited(_)) => Message::Ended,
            // The keeper sends no others.
            Some(Frame::Input(_) | Frame::InputEnd | Frame::Resize(..)) => Message::Lost(0),
            None => Message::KeeperGone,
        })
    }

    fn send_input(&self, data: &[u8]) -> io::Result<usize> {
        let piece = &data[..data.len().min(MOST_DATA)];
        self.0.try_send(&Frame::Input(piece)).map(|()| piece.len())
    }

    fn end_input(&self) -> io::Result<()> {
        self.0.try_send(&Frame::InputEnd)
    }

    fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        self.0.try_send(&Frame::Resize(rows, columns))
    }
}
