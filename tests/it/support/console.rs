//! The other side of `--console-socket`: receives the container's terminal.

use std::fs::File;
use std::io::{ErrorKind, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use super::wait_until;

/// A listening socket at a path of the sandbox.
pub(crate) struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Listens at `path` (107 bytes at most: a socket address is no longer).
    pub(crate) fn at(path: PathBuf) -> Self {
        let listener = UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { path, listener }
    }

    /// The path for `--console-socket`.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The terminal's master end, as the runtime sent it.
    pub(crate) fn receive(&self) -> File {
        let stream =
            wait_until("the runtime to connect to the console socket", || match self.listener.accept() {
                Ok((stream, _)) => Some(stream),
                Err(e) if e.kind() == ErrorKind::WouldBlock => None,
                Err(e) => panic!("accept on the console socket: {e}"),
            });
        File::from(receive_fd(&stream))
    }
}

fn receive_fd(stream: &UnixStream) -> OwnedFd {
    stream.set_nonblocking(false).unwrap();
    let mut name = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut name)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
    let fds = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    fds.expect("the runtime sent a message without a file descriptor")
}

/// Reads a terminal until its other side is closed, which Linux reports as EIO.
pub(crate) fn read_terminal(master: &mut File) -> String {
    let mut text = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(1..) = master.read(&mut buffer).inspect(|n| text.extend_from_slice(&buffer[..*n])) {}
    String::from_utf8_lossy(&text).into_owned()
}
