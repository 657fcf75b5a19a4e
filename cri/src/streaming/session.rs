//! A session of a command, or with a container's own process: the client's channels on one side, pipes, a terminal or an
//! attachment on the other.

use std::convert::Infallible;
use std::future::pending;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use bytes::{Buf, Bytes};
use rustix::termios::{Winsize, tcsetwinsize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::channels::{Channel, Channels, Output, Sizes};
use super::wire::{Input, register};

/// A command that runs in a container, as the backend has started it.
pub struct Process {
    /// Its standard streams.
    pub streams: Streams,
    /// What waits for it.
    pub command: Box<dyn Command>,
}

impl std::fmt::Debug for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Process").field("streams", &self.streams).finish_non_exhaustive()
    }
}

/// The server's ends of a command's standard streams. They need not be non-blocking.
#[derive(Debug)]
pub enum Streams {
    /// Pipes, for those streams that are connected.
    Pipes {
        /// To its standard input.
        stdin: Option<OwnedFd>,
        /// From its standard output.
        stdout: Option<OwnedFd>,
        /// From its standard error.
        stderr: Option<OwnedFd>,
    },
    /// The master of its terminal.
    Terminal(OwnedFd),
}

/// A running command, as the backend knows it.
pub trait Command: Send + Sync + 'static {
    /// A descriptor that is readable once the command has exited, such as a pidfd.
    ///
    /// # Errors
    /// The limit of open files is reached.
    fn exit_event(&self) -> io::Result<OwnedFd>;

    /// Reaps the command once it has exited, and returns its exit code, or 128 + the signal. May block.
    fn reap(&self) -> i32;

    /// Sends SIGHUP to the processes of a command whose client is gone: those that ignore it go on. May block.
    fn hang_up(&self);
}

/// An attachment to a container's own process. No method blocks: they fail with `WouldBlock`.
pub trait Attachment: AsFd + Send + Sync + 'static {
    /// Whether the container has a terminal.
    fn is_terminal(&self) -> bool;

    /// Receives the next message into `buffer`, which has at least [`LARGEST_MESSAGE`] bytes.
    ///
    /// # Errors
    /// `WouldBlock`; the connection is broken.
    fn receive(&self, buffer: &mut [u8]) -> io::Result<Message>;

    /// Sends input, and returns how many bytes were taken.
    ///
    /// # Errors
    /// `WouldBlock`; the container takes no input any more.
    fn send_input(&self, data: &[u8]) -> io::Result<usize>;

    /// Ends the input.
    ///
    /// # Errors
    /// `WouldBlock`; the connection is broken.
    fn end_input(&self) -> io::Result<()>;

    /// Sets the size of the container's terminal.
    ///
    /// # Errors
    /// `WouldBlock`; the connection is broken.
    fn resize(&self, columns: u16, rows: u16) -> io::Result<()>;
}

/// What comes from an attached container. Output is where the range is in the buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Some of its standard output.
    Stdout(Range<usize>),
    /// Some of its standard error.
    Stderr(Range<usize>),
    /// So many bytes of output were left out, because they came faster than the client takes them.
    Lost(u64),
    /// The container has ended.
    Ended,
    /// The keeper of the container is gone; another one may have it.
    KeeperGone,
}

/// The length of the longest message from an attached container, in bytes.
pub const LARGEST_MESSAGE: usize = super::wire::PAYLOAD;

/// How much output is still read after the end of a command: what its pipes can hold. Later output is that of processes
/// that it has left behind.
const LAST_OUTPUT: usize = 1 << 20;

/// How long a terminal's last output may take after the end of a command: the kernel passes it on from a work queue.
const LAST_TERMINAL_OUTPUT: Duration = Duration::from_millis(200);

/// The byte that means the end of input to a terminal: ^D.
const END_OF_TRANSMISSION: u8 = 4;

/// A descriptor of a stream, registered with the event loop.
type Fd = AsyncFd<OwnedFd>;

fn register_stream(fd: OwnedFd, interest: Interest) -> io::Result<Fd> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    register(fd, interest)
}

/// The streams of a command, ready to be copied.
struct Ends {
    stdin: Option<Fd>,
    stdout: Option<Fd>,
    stderr: Option<Fd>,
    /// Sets the size of the terminal.
    terminal: Option<OwnedFd>,
}

impl Ends {
    fn new(streams: Streams) -> io::Result<Self> {
        let read = |fd: Option<OwnedFd>| fd.map(|fd| register_stream(fd, Interest::READABLE)).transpose();
        let write = |fd: Option<OwnedFd>| fd.map(|fd| register_stream(fd, Interest::WRITABLE)).transpose();
        match streams {
            Streams::Pipes { stdin, stdout, stderr } => Ok(Self {
                stdin: write(stdin)?,
                stdout: read(stdout)?,
                stderr: read(stderr)?,
                terminal: None,
            }),
            Streams::Terminal(master) => Ok(Self {
                stdin: write(Some(master.try_clone()?))?,
                stdout: read(Some(master.try_clone()?))?,
                stderr: None,
                terminal: Some(master),
            }),
        }
    }
}

/// Copies between a command and its client until the command has exited and its output is sent.
///
/// # Errors
/// The client is gone.
pub(super) async fn follow(streams: Streams, exit: OwnedFd, channels: &mut Channels) -> io::Result<()> {
    let Ends { stdin, stdout, stderr, terminal } = Ends::new(streams)?;
    let exit = register(exit, Interest::READABLE)?;
    let is_terminal = terminal.is_some();
    let Channels { stdin: input, resize, output } = channels;
    let output = &*output;
    let exited = async { exit.readable().await.map(drop) };
    let running = async {
        // Neither end before the command: a command may close its output and go on.
        let copy = |fd, channel| async move {
            copy_output(fd, channel, output).await?;
            pending::<io::Result<()>>().await
        };
        tokio::select! {
            exited = exited => exited,
            broken = copy(stdout.as_ref(), Channel::Stdout) => broken,
            broken = copy(stderr.as_ref(), Channel::Stderr) => broken,
        }
    };
    tokio::select! {
        ended = running => ended?,
        never = copy_input(stdin, input, is_terminal) => match never {},
        never = apply_sizes(resize, |columns, rows| {
            let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            let _ = terminal.as_ref().map(|terminal| tcsetwinsize(terminal, size));
        }) => match never {},
    }
    let mut left = LAST_OUTPUT;
    for (fd, channel) in [(&stdout, Channel::Stdout), (&stderr, Channel::Stderr)] {
        let Some(fd) = fd else { continue };
        let wait = if is_terminal { LAST_TERMINAL_OUTPUT } else { Duration::ZERO };
        copy_rest(fd, channel, output, &mut left, wait).await?;
    }
    Ok(())
}

/// Copies output until its end.
///
/// # Errors
/// The client is gone.
async fn copy_output(fd: Option<&Fd>, channel: Channel, output: &Output) -> io::Result<()> {
    let Some(fd) = fd else { return Ok(()) };
    loop {
        let mut ready = fd.readable().await?;
        let read = |buffer: &mut [u8]| {
            ready
                .try_io(|fd| Ok(rustix::io::read(fd, buffer)?))
                .unwrap_or(Err(io::ErrorKind::WouldBlock.into()))
        };
        match output.send(channel, read).await? {
            // EIO is how a terminal says that nobody has it open any more.
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if is_transient(&error) => {}
            Err(_) => return Ok(()),
        }
    }
}

/// Copies what a command that has exited left in a pipe, or what a terminal still passes on within `wait`.
///
/// # Errors
/// The client is gone.
async fn copy_rest(
    fd: &Fd,
    channel: Channel,
    output: &Output,
    left: &mut usize,
    wait: Duration,
) -> io::Result<()> {
    while *left > 0 {
        let read = |buffer: &mut [u8]| Ok(rustix::io::read(fd.get_ref(), buffer)?);
        match output.send(channel, read).await? {
            Ok(0) => return Ok(()),
            Ok(length) => *left = left.saturating_sub(length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && !wait.is_zero() => {
                let Ok(Ok(mut ready)) = tokio::time::timeout(wait, fd.readable()).await else {
                    return Ok(());
                };
                if rustix::io::ioctl_fionread(fd.get_ref()).is_ok_and(|available| available == 0) {
                    ready.clear_ready();
                }
            }
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

fn is_transient(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// Copies the client's input. Never ends: what the command does not take is read and discarded.
async fn copy_input(mut fd: Option<Fd>, input: &mut Option<Input>, is_terminal: bool) -> Infallible {
    let Some(input) = input else { return pending().await };
    while let Some(data) = input.recv().await {
        if let Some(open) = &fd
            && write_all(open, &data).await.is_err()
        {
            fd = None;
        }
    }
    if is_terminal && let Some(open) = &fd {
        let _ = write_all(open, &[END_OF_TRANSMISSION]).await;
    }
    drop(fd);
    pending().await
}

async fn write_all(fd: &Fd, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let mut ready = fd.writable().await?;
        match ready.try_io(|fd| Ok(rustix::io::write(fd, data)?)) {
            Ok(Ok(length)) => data = &data[length..],
            Ok(Err(error)) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            Ok(Err(_)) | Err(_) => {}
        }
    }
    Ok(())
}

/// Applies the sizes that the client sends. Never ends.
async fn apply_sizes(resize: &mut Option<Input>, apply: impl Fn(u16, u16)) -> Infallible {
    let mut sizes = Sizes::default();
    if let Some(resize) = resize {
        while let Some(data) = resize.recv().await {
            if let Some((columns, rows)) = sizes.read(&data) {
                apply(columns, rows);
            }
        }
    }
    pending().await
}

/// An attachment, and a copy of its descriptor that is registered with the event loop.
struct Attached {
    fd: Fd,
    attachment: Box<dyn Attachment>,
}

/// Why an attached session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detached {
    Ended,
    KeeperGone,
}

/// Copies between an attached container and its client until the container has ended. `unsent` is input that an earlier
/// attachment could not send, and gets what this one cannot.
///
/// # Errors
/// The client is gone.
pub(super) async fn follow_attached(
    attachment: Box<dyn Attachment>,
    channels: &mut Channels,
    unsent: &mut Bytes,
) -> io::Result<Detached> {
    let is_terminal = attachment.is_terminal();
    let copy = attachment.as_fd().try_clone_to_owned()?;
    let attached = Attached { fd: register(copy, Interest::READABLE | Interest::WRITABLE)?, attachment };
    let Channels { stdin, resize, output } = channels;
    tokio::select! {
        detached = show(&attached, output) => detached,
        never = type_in(&attached, stdin, unsent) => match never {},
        never = apply_sizes(resize, |columns, rows| {
            if is_terminal {
                let _ = attached.attachment.resize(columns, rows);
            }
        }) => match never {},
    }
}

async fn show(attached: &Attached, output: &Output) -> io::Result<Detached> {
    let mut buffer = vec![0; LARGEST_MESSAGE];
    loop {
        let mut ready = attached.fd.readable().await?;
        let message = match ready.try_io(|_| attached.attachment.receive(&mut buffer)) {
            Ok(Ok(message)) => message,
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => continue,
            Ok(Err(_)) => return Ok(Detached::KeeperGone),
            Err(_) => continue,
        };
        match message {
            Message::Stdout(range) => send_copy(output, Channel::Stdout, &buffer[range]).await?,
            Message::Stderr(range) => send_copy(output, Channel::Stderr, &buffer[range]).await?,
            Message::Lost(bytes) => {
                let line = format!("\r\n[{bytes} bytes of output came too fast and are left out]\r\n");
                let tty = attached.attachment.is_terminal();
                let channel = if tty { Channel::Stdout } else { Channel::Stderr };
                send_copy(output, channel, line.as_bytes()).await?;
            }
            Message::Ended => return Ok(Detached::Ended),
            Message::KeeperGone => return Ok(Detached::KeeperGone),
        }
    }
}

async fn send_copy(output: &Output, channel: Channel, data: &[u8]) -> io::Result<()> {
    let copy = |buffer: &mut [u8]| {
        let length = data.len().min(buffer.len());
        buffer[..length].copy_from_slice(&data[..length]);
        Ok(length)
    };
    output.send(channel, copy).await?.map(drop)
}

/// Passes the client's input on. Never ends; `unsent` has what could not be sent.
async fn type_in(attached: &Attached, input: &mut Option<Input>, unsent: &mut Bytes) -> Infallible {
    let Some(input) = input else { return pending().await };
    loop {
        while !unsent.is_empty() {
            match offer(attached, |attachment| attachment.send_input(unsent)).await {
                Ok(length) => unsent.advance(length),
                // The keeper is gone, which the other direction finds out, too.
                Err(_) => return pending().await,
            }
        }
        match input.recv().await {
            Some(data) => *unsent = data,
            None => break,
        }
    }
    let _ = offer(attached, |attachment| attachment.end_input()).await;
    pending().await
}

async fn offer<T>(
    attached: &Attached,
    mut send: impl FnMut(&dyn Attachment) -> io::Result<T>,
) -> io::Result<T> {
    loop {
        let mut ready = attached.fd.writable().await?;
        match ready.try_io(|_| send(attached.attachment.as_ref())) {
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(done) => return done,
            Err(_) => {}
        }
    }
}

/// Waits until a descriptor is readable.
pub(super) async fn readable(fd: OwnedFd) -> io::Result<()> {
    register(fd, Interest::READABLE)?.readable().await.map(drop)
}
