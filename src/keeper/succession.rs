//! Giving way to a keeper that is to replace this one, such as systemd's unit when another started a keeper before it.

use std::os::fd::AsFd;

use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::client::Client;
use super::container::complain;
use super::heir::{Ending, Estate, Word, read_will};
use super::poll::{End, Keeper};
use super::wire::{self, Reply, Request};
use crate::error::{Error, Kind, Result};

/// How long a successor may take for each word, in seconds: until then nobody reads what containers write.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);

impl Keeper {
    /// Leaves everything to a client, and ends. A client that does not take it changes nothing.
    pub(super) fn give_way(&mut self, client: u32) {
        match self.pass_all(client) {
            Ok(()) => self.end = Some(End::Succeeded),
            Err(errno) => complain(&format!("give way to another keeper: {errno}")),
        }
    }

    fn pass_all(&self, client: u32) -> rustix::io::Result<()> {
        // It is gone already: there is nobody to give way to.
        let socket = &self.clients.0.get(&client).ok_or(rustix::io::Errno::PIPE)?.socket;
        rustix::io::ioctl_fionbio(socket, false)?;
        set_socket_timeout(socket, Timeout::Send, Some(PATIENCE))?;
        wire::send(socket, &Reply::Yours, &[self.listener.as_fd(), self.lock.as_fd()])?;
        for container in self.containers.values() {
            let (word, fds) = container.will();
            wire::send(socket, &word, &fds)?;
        }
        wire::send(socket, &Word::End, &[])
    }
}

impl Client {
    /// Takes over all that the keeper has; it ends.
    ///
    /// # Errors
    /// The keeper cannot be asked, or ended before everything had come.
    pub(super) fn succeed(self) -> Result<Estate> {
        let (reply, fds) = self.ask(&Request::Succeed, &[])?;
        let both = <[_; 2]>::try_from(fds).ok().filter(|_| reply == Reply::Yours);
        let Some([listener, lock]) = both else { return Err(super::client::unexpected()) };
        let (ending, held) = read_will(&self, || {});
        match ending {
            Ending::Said => Ok(Estate { listener, lock, held }),
            Ending::Gone => {
                Err(Error::new(Kind::Unreachable, "the keeper ended before it had left all it has"))
            }
        }
    }
}
