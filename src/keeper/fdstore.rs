//! What is left with systemd when a unit's keeper is told to end, and handed over when that was for a restart: its store of
//! file descriptors (FileDescriptorStoreMax= in systemd.service(5), sd_pid_notify_with_fds(3), sd_listen_fds(3)).
//!
//! With the lock in the store nobody else starts a keeper in between, and who asks for one waits at the socket. When the
//! unit was to stop, systemd closes all of it.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::container::complain;
use super::heir::Held;
use super::notify::{is_supervised, tell};
use super::poll::Keeper;
use crate::sys::fd::inherit;

/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// The longest name that systemd takes, in bytes.
const LONGEST: usize = 255;

/// How long systemd may take to receive all: then it will not any more.
const PATIENCE: Timespec = Timespec { tv_sec: 3, tv_nsec: 0 };

/// What an earlier keeper has left.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) listener: Option<OwnedFd>,
    pub(super) lock: Option<OwnedFd>,
    pub(super) held: BTreeMap<String, Held>,
}

/// Leaves all with systemd; whether there is one that was told. Whether it keeps anything shows only at the next start.
pub(super) fn leave(keeper: &Keeper) -> bool {
    if !is_supervised() {
        return false;
    }
    let own = [("listener".to_owned(), &keeper.listener), ("lock".to_owned(), &keeper.lock)];
    let containers = keeper.containers.values().filter(|container| container.process.is_some());
    let of_containers = containers.flat_map(|container| {
        let names = ["process", "stdin", "stdout", "stderr"];
        let named = names.into_iter().zip(container.open());
        named.filter_map(|(name, fd)| Some((format!("{name}.{}", container.id()), fd?)))
    });
    let all = own.into_iter().chain(of_containers);
    let left = all.into_iter().try_for_each(|(name, fd)| put(&name, fd.as_fd())).and_then(|()| wait());
    if let Err(error) = &left {
        complain(&format!("leave descriptors with the supervisor: {error}"));
    }
    left.is_ok()
}

fn put(name: &str, fd: BorrowedFd<'_>) -> std::io::Result<()> {
    if name.len() > LONGEST {
        return Ok(());
    }
    // Without FDPOLL=0 it drops a stream whose other end is closed, though there may be something left to read.
    tell(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={name}"), &[fd])
}

/// Waits until all that was said so far is received: it does not count from a process that has ended.
fn wait() -> std::io::Result<()> {
    let (ours, theirs) = pipe_with(PipeFlags::CLOEXEC)?;
    tell("BARRIER=1", &[theirs.as_fd()])?;
    drop(theirs);
    match poll(&mut [PollFd::new(&ours, PollFlags::empty())], Some(&PATIENCE))? {
        0 => Err(std::io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// What systemd hands over to this process. To be asked once, before anything else takes descriptors by number.
pub(super) fn find() -> Left {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Left::default();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let count = number("LISTEN_FDS").and_then(|count| usize::try_from(count).ok()).unwrap_or_default();
    let mut left = Left::default();
    for (number, name) in (FIRST..).zip(names.split(':')).take(count) {
        if let Ok(fd) = inherit(number) {
            left.take(name, fd);
        }
    }
    left
}

impl Left {
    /// What has a name that is not known here is closed.
    fn take(&mut self, name: &str, fd: OwnedFd) {
        let place = match name.split_once('.') {
            None if name == "listener" => &mut self.listener,
            None if name == "lock" => &mut self.lock,
            Some((stream, id)) => {
                let held = self.held.entry(id.to_owned()).or_default();
                match stream {
                    "process" => &mut held.process,
                    "stdin" => &mut held.stdin,
                    "stdout" => &mut held.stdout,
                    "stderr" => &mut held.stderr,
                    _ => return,
                }
            }
            None => return,
        };
        *place = Some(fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_whose_and_what() {
        let mut left = Left::default();
        for name in ["lock", "stdin.a.b", "process.a.b", "stdout.c", "unknown", "other.a.b", "listener.d", ""]
        {
            left.take(name, std::io::pipe().unwrap().0.into());
        }
        assert!(left.lock.is_some() && left.listener.is_none());
        let has = |id: &str| {
            left.held.get(id).map(|h| [&h.process, &h.stdin, &h.stdout, &h.stderr].map(Option::is_some))
        };
        assert_eq!(has("a.b"), Some([true, true, false, false]));
        assert_eq!(has("c"), Some([false, false, true, false]));
    }
}
