//! What the event loop has to do with the standby: it keeps it up to date.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::{Container, Keeper, reap_now};
use crate::keeper::protocol::{self, Holds, StateMessage};

/// The standby, from the keeper's side.
#[derive(Debug)]
pub(in crate::keeper) struct Standby {
    pub(in crate::keeper) socket: OwnedFd,
    pub(in crate::keeper) pidfd: OwnedFd,
}

impl Container {
    /// The process, and the keeper's ends of the streams.
    pub(in crate::keeper) fn open(&self) -> [Option<&OwnedFd>; 4] {
        [
            self.process.as_ref(),
            self.stdin.as_ref(),
            self.stdout.as_ref().map(|source| &source.fd),
            self.stderr.as_ref().map(|source| &source.fd),
        ]
    }

    /// The message by which these are left to another.
    pub(in crate::keeper) fn state_message(&self) -> (StateMessage, Vec<BorrowedFd<'_>>) {
        let all = self.open();
        let [process, stdin, stdout, stderr] = all.map(|fd| fd.is_some());
        let fds = all.into_iter().flatten().map(AsFd::as_fd).collect();
        (StateMessage::Holds(self.id().to_owned(), Holds { process, stdin, stdout, stderr }), fds)
    }
}

impl Keeper {
    /// Reaps a standby that was killed.
    pub(in crate::keeper) fn standby_has_ended(&mut self) {
        if let Some(standby) = self.standby.take() {
            self.poll.remove(&standby.pidfd);
            reap_now(&standby.pidfd);
            self.standby_ended = true;
        }
    }

    pub(in crate::keeper) fn update_standby(&self, key: u32) {
        let Some(container) = self.containers.get(&key) else { return };
        if let Some(launcher) = &container.launcher {
            return self.tell_standby_of_launch(container.id(), &launcher.socket);
        }
        if container.process.is_some() {
            let (message, fds) = container.state_message();
            self.send_to_standby(&message, &fds);
        }
    }

    /// Whatever a launcher makes is known to the standby, too.
    pub(in crate::keeper) fn tell_standby_of_launch(&self, id: &str, launcher: &OwnedFd) {
        self.send_to_standby(&StateMessage::Launches(id.to_owned()), &[launcher.as_fd()]);
    }

    pub(in crate::keeper) fn tell_standby_of_end(&self, id: &str) {
        self.send_to_standby(&StateMessage::Gone(id.to_owned()), &[]);
    }

    fn send_to_standby(&self, message: &StateMessage, fds: &[BorrowedFd<'_>]) {
        if let Some(standby) = &self.standby {
            let _ = protocol::send(&standby.socket, message, fds);
        }
    }
}
