//! A connection that is attached to a container.

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
