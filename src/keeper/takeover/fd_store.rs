//! systemd's store of file descriptors (FileDescriptorStoreMax= in systemd.service(5), sd_pid_notify_with_fds(3),
//! sd_listen_fds(3)): a keeper that systemd stops leaves its descriptors there, and gets them back when that was a restart.
//!
//! While the lock is in the store nobody else can start a keeper, and clients wait at the socket. When the unit is stopped for
//! good, systemd closes everything. The keeper removes each descriptor from the store right away (FDSTOREREMOVE): a second
//! copy would keep standard inputs from reaching their end, and come back at the next start for another container.
//!
//! All names come in one variable of the environment, of 128 KiB at most: so they are short, and FIFOs of output, which can be
//! opened again, are not stored. The names have no version; the records that they refer to do, and are checked first.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};

use super::snapshot::Snapshot;
use crate::keeper::event_loop::{Container, Keeper, RunDir};
use crate::keeper::notify::{FIRST_HANDED_OVER, handed_over, is_supervised, tell};
use crate::keeper::own_log::warn;
use crate::sys::fd::inherit;

/// How long systemd may take to receive all; what it has not then, it receives later.
const PATIENCE: Timespec = Timespec { tv_sec: 3, tv_nsec: 0 };

/// What a descriptor in the store is. By its name: a letter, and for what is a container's the pid of that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    Listener,
    Lock,
    Process(i32),
    Stdin(i32),
    Terminal(i32),
}

impl Name {
    fn to_text(self) -> String {
        match self {
            Self::Listener => "l".to_owned(),
            Self::Lock => "k".to_owned(),
            Self::Process(pid) => format!("p{pid}"),
            Self::Stdin(pid) => format!("i{pid}"),
            Self::Terminal(pid) => format!("t{pid}"),
        }
    }

    fn pid(self) -> Option<i32> {
        match self {
            Self::Listener | Self::Lock => None,
            Self::Process(pid) | Self::Stdin(pid) | Self::Terminal(pid) => Some(pid),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (letter, pid) = text.split_at_checked(1)?;
        match (letter, pid.parse()) {
            ("l", Err(_)) if pid.is_empty() => Some(Self::Listener),
            ("k", Err(_)) if pid.is_empty() => Some(Self::Lock),
            ("p", Ok(pid)) => Some(Self::Process(pid)),
            ("i", Ok(pid)) => Some(Self::Stdin(pid)),
            ("t", Ok(pid)) => Some(Self::Terminal(pid)),
            _ => None,
        }
    }
}

/// Stores all that cannot be opened again; whether there is a supervisor. It may receive some of it later, so the socket stays
/// even after an error.
pub(in crate::keeper) fn leave(keeper: &Keeper) -> bool {
    if !is_supervised() {
        return false;
    }
    let own = [(Name::Listener, &keeper.listener), (Name::Lock, &keeper.lock)];
    let all = own.into_iter().chain(keeper.containers.values().flat_map(of_container));
    let left = all.into_iter().try_for_each(|(name, fd)| put(name, fd.as_fd())).and_then(|()| wait());
    if let Err(error) = left {
        warn(&format!("leave descriptors with the supervisor: {error}"));
    }
    true
}

fn of_container(container: &Container) -> impl Iterator<Item = (Name, &OwnedFd)> {
    let pid = container.record.pid;
    let process = container.process.as_ref().map(|fd| (Name::Process(pid), fd));
    let input = match container.record.order.has_console {
        true => container.input_end().map(|fd| (Name::Terminal(pid), fd)),
        false => container.input_end().map(|fd| (Name::Stdin(pid), fd)),
    };
    process.into_iter().chain(input)
}

fn put(name: Name, fd: BorrowedFd<'_>) -> std::io::Result<()> {
    // Without FDPOLL=0 it drops a stream whose other end is closed, though there may be something left to read.
    tell(&format!("FDSTORE=1\nFDPOLL=0\nFDNAME={}", name.to_text()), &[fd])
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
pub(in crate::keeper) fn find(run_dir: &RunDir) -> Snapshot {
    let count = handed_over();
    if count == 0 {
        return Snapshot::default();
    }
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let fds: Vec<_> = (FIRST_HANDED_OVER..).take(count).map(|number| inherit(number).ok()).collect();
    let ids = run_dir.peek().map(|record| (record.pid, record.order.id)).collect();
    let mut left = Snapshot::default();
    for (name, fd) in names.split(':').zip(fds) {
        if let (Some(name), Some(fd)) = (Name::parse(name), fd) {
            left.take(name, fd, &ids);
        }
    }
    clear(&names);
    left
}

/// Takes all that was handed over out of the store.
fn clear(names: &str) {
    let distinct: BTreeSet<_> = names.split(':').filter(|name| !name.is_empty()).collect();
    for name in distinct {
        if let Err(error) = tell(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]) {
            return warn(&format!("take descriptors out of the supervisor's store: {error}"));
        }
    }
}

impl Snapshot {
    /// What was stored last comes first. What belongs to no container is closed.
    fn take(&mut self, name: Name, fd: OwnedFd, ids: &BTreeMap<i32, String>) {
        let id = name.pid().and_then(|pid| ids.get(&pid));
        let held = id.map(|id| self.containers.entry(id.clone()).or_default());
        let run_dir = match (name, held) {
            (Name::Listener, _) => &mut self.listener,
            (Name::Lock, _) => &mut self.lock,
            (Name::Process(_), Some(held)) => &mut held.process,
            (Name::Stdin(_), Some(held)) => &mut held.stdin,
            (Name::Terminal(_), Some(held)) => &mut held.stdout,
            (Name::Process(_) | Name::Stdin(_) | Name::Terminal(_), None) => return,
        };
        run_dir.get_or_insert(fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in [Name::Listener, Name::Lock, Name::Process(1), Name::Stdin(4_194_304), Name::Terminal(77)]
        {
            assert_eq!(Name::parse(&name.to_text()), Some(name));
        }
        for text in ["", "x1", "p", "l1", "stored", "pp", "\u{e9}1"] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }

    #[test]
    fn the_last_one_of_a_name_counts() {
        use rustix::fs::fstat;
        let mut left = Snapshot::default();
        let ids = BTreeMap::from([(7, "box".to_owned())]);
        let [new, old, other] = [(); 3].map(|()| OwnedFd::from(std::io::pipe().unwrap().0));
        let inode = |fd: &OwnedFd| fstat(fd).unwrap().st_ino;
        let expected = inode(&new);
        left.take(Name::Process(7), new, &ids);
        left.take(Name::Process(7), old, &ids);
        left.take(Name::Process(8), other, &ids);
        assert_eq!(left.containers.len(), 1);
        assert_eq!(left.containers["box"].process.as_ref().map(inode), Some(expected));
    }
}
