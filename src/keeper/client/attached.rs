//! A connection that is attached to a container.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::error::{Doing, Result};
use crate::keeper::protocol::{self, Frame, MOST, Terms};

/// A connection over which a container's output comes.
#[derive(Debug)]
pub struct Attached {
    socket: OwnedFd,
    terms: Terms,
    buffer: Vec<u8>,
}

impl Attached {
    pub(super) fn new(socket: OwnedFd, terms: Terms) -> Self {
        Self { socket, terms, buffer: vec![0; MOST] }
    }

    /// On which terms.
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Waits for the next frame; `None` when the keeper is gone.
    ///
    /// # Errors
    /// The socket is broken, or says something that is no frame.
    pub fn receive(&mut self) -> Result<Option<Frame<'_>>> {
        let (length, _) =
            protocol::receive(&self.socket, &mut self.buffer).doing(|| "hear from the keeper")?;
        if length == 0 {
            return Ok(None);
        }
        protocol::decode(&self.buffer[..length])
            .map(Some)
            .map_err(|error| error.while_doing("read the container's output"))
    }

    /// From now on `try_receive` and `try_send` do not wait; the other methods must not be used any more.
    ///
    /// # Errors
    /// The errno of ioctl(2).
    pub fn set_nonblocking(&self) -> Result<()> {
        rustix::io::ioctl_fionbio(&self.socket, true).doing(|| "set up the connection to the keeper")
    }

    /// Receives the next frame into `buffer`, and its length there; no frame when the keeper is gone.
    ///
    /// # Errors
    /// `WouldBlock`; the socket is broken, or says something that is no frame.
    pub fn try_receive<'b>(&self, buffer: &'b mut [u8]) -> io::Result<(usize, Option<Frame<'b>>)> {
        let (length, _) = protocol::receive(&self.socket, buffer)?;
        if length == 0 {
            return Ok((0, None));
        }
        let frame =
            protocol::decode(&buffer[..length]).map_err(|error| io::Error::other(error.to_string()))?;
        Ok((length, Some(frame)))
    }

    /// Sends input, its end, or a size.
    ///
    /// # Errors
    /// `WouldBlock`; the keeper is gone.
    pub fn try_send(&self, frame: &Frame<'_>) -> io::Result<()> {
        Ok(protocol::send(&self.socket, frame, &[])?)
    }

    /// Sends input, its end, or a size. Waits while the container does not take it.
    ///
    /// # Errors
    /// The keeper is gone.
    pub fn send(&self, frame: &Frame<'_>) -> Result<()> {
        protocol::send(&self.socket, frame, &[]).doing(|| "send to the keeper")
    }
}

impl AsFd for Attached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
