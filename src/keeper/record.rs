//! What the keeper has on disk: a directory for each container, in memory like all of /run, with its FIFOs and a record.
//!
//! ```text
//! <run>/keeper.sock             clients connect here
//! <run>/keeper.lock             held while a keeper or its heir lives
//! <run>/keeper/<id>/record      what a later keeper has to know; replaced whole
//! <run>/keeper/<id>/stdin, stdout, stderr
//! ```
//!
//! The container's ends of stdout and stderr are open for reading, too: it never gets SIGPIPE, whoever reads or does not.
//! What it writes while nobody reads waits in the FIFO, 64 KiB of it; then its write(2) waits.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::machine::Ran;
use super::wire::{Order, Stdin};
use crate::error::{Doing, Result};
use crate::linux::private;
use crate::linux::proc_stat::ProcStat;

/// The most that a record has, in bytes: an order comes in one message.
const MOST: u64 = 1 << 20;

/// What is known of a container whose first process lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// As it was ordered.
    pub(super) order: Order,
    /// Its first process.
    pub(super) pid: i32,
    /// When that was started, in clock ticks since boot.
    pub(super) start_time: u64,
    /// It is here to stay: its launch was good. Records of keepers before 0.2 do not have this and are only of such.
    pub(super) kept: bool,
}

/// What a record was before it had `kept`.
#[derive(Debug, Serialize, Deserialize)]
struct FirstRecord {
    order: Order,
    pid: i32,
    start_time: u64,
}

/// The run directory.
#[derive(Debug, Clone)]
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new(run: &Path) -> Self {
        Self(run.to_owned())
    }

    pub(super) fn run(&self) -> &Path {
        &self.0
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.0.join("keeper.sock")
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.0.join("keeper.lock")
    }

    pub(super) fn complaints(&self) -> PathBuf {
        self.0.join("keeper.log")
    }

    pub(super) fn containers(&self) -> PathBuf {
        self.0.join("keeper")
    }

    fn of(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// Removes what there is of a container.
    pub(super) fn forget(&self, id: &str) {
        let _ = std::fs::remove_dir_all(self.of(id));
    }

    /// Writes a container's record.
    pub(super) fn save(&self, record: &Record) -> std::io::Result<()> {
        let directory = self.of(&record.order.id);
        let new = directory.join("record.new");
        let bytes = postcard::to_allocvec(record).map_err(|_| std::io::ErrorKind::InvalidData)?;
        private::replace(&directory.join("record"), &new, bytes, private::FILE)
    }

    /// The records of all containers; directories without one, of launches that came to nothing, are removed.
    pub(super) fn load(&self) -> Vec<Record> {
        let (found, empty): (Vec<_>, Vec<_>) = self.directories().partition(|(_, record)| record.is_some());
        for (directory, _) in empty {
            let _ = std::fs::remove_dir_all(directory);
        }
        found.into_iter().filter_map(|(_, record)| record).collect()
    }

    /// The records that there are, while perhaps another keeper serves.
    pub(super) fn peek(&self) -> impl Iterator<Item = Record> {
        self.directories().filter_map(|(_, record)| record)
    }

    fn directories(&self) -> impl Iterator<Item = (PathBuf, Option<Record>)> {
        let entries = std::fs::read_dir(self.containers()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).map(|directory| {
            let bytes = private::read(&directory.join("record"), MOST).unwrap_or_default();
            (directory, Record::decode(&bytes))
        })
    }
}

impl Record {
    fn decode(bytes: &[u8]) -> Option<Self> {
        postcard::from_bytes(bytes).ok().or_else(|| {
            let FirstRecord { order, pid, start_time } = postcard::from_bytes(bytes).ok()?;
            Some(Self { order, pid, start_time, kept: true })
        })
    }

    /// The record of a process that was just made.
    pub(super) fn of(order: Order, pid: i32) -> Self {
        let stat = ProcStat::read(pid).ok().flatten();
        Self { order, pid, start_time: stat.map_or(0, |stat| stat.start_time), kept: false }
    }

    /// How its process ended, while nobody has reaped it.
    pub(super) fn zombie_status(&self) -> Option<i32> {
        let stat = ProcStat::read(self.pid).ok().flatten()?;
        (stat.start_time == self.start_time && stat.is_dead()).then_some(stat.exit_status)
    }

    /// Whether its process has executed the container's program; unknown once somebody has reaped it.
    pub(super) fn ran(&self) -> Ran {
        match ProcStat::read(self.pid).ok().flatten() {
            Some(stat) if stat.start_time == self.start_time => match stat.has_executed {
                true => Ran::Yes,
                false => Ran::No,
            },
            _ => Ran::Unknown,
        }
    }

    /// Whether its process is the one that has its pid now.
    pub(super) fn is_current(&self) -> bool {
        ProcStat::read(self.pid).ok().flatten().is_some_and(|stat| stat.start_time == self.start_time)
    }
}

/// The keeper's ends of a container's streams.
#[derive(Debug, Default)]
pub(super) struct Ends {
    pub(super) stdin: Option<OwnedFd>,
    pub(super) stdout: Option<OwnedFd>,
    pub(super) stderr: Option<OwnedFd>,
}

const NAMES: [&str; 3] = ["stdin", "stdout", "stderr"];

impl Place {
    /// Makes a container's directory and FIFOs; answers our ends and its own. A container with a terminal has none.
    ///
    /// # Errors
    /// They cannot be made.
    pub(super) fn make(&self, order: &Order) -> Result<(Ends, [Option<OwnedFd>; 3])> {
        let directory = self.of(&order.id);
        let doing = || format!("make {}", directory.display());
        private::make_dir(&directory, private::DIR).doing(doing)?;
        if order.has_console {
            return Ok((Ends::default(), [None, None, None]));
        }
        self.make_fifos(order).doing(doing)
    }

    fn make_fifos(&self, order: &Order) -> std::io::Result<(Ends, [Option<OwnedFd>; 3])> {
        let directory = self.of(&order.id);
        for name in NAMES {
            private::fifo(&directory.join(name), private::FILE)?;
        }
        let theirs = |name| open(&directory, name, OFlags::RDWR).map(Some);
        let stdin = match order.stdin {
            Stdin::None => None,
            Stdin::Open | Stdin::Once => {
                // Without O_NONBLOCK this would wait for a writer; the payload gets it as a plain one.
                let end = open(&directory, "stdin", OFlags::RDONLY | OFlags::NONBLOCK)?;
                rustix::fs::fcntl_setfl(&end, OFlags::empty())?;
                Some(end)
            }
        };
        let (stdout, stderr) = (theirs("stdout")?, theirs("stderr")?);
        Ok((self.ends(order)?, [stdin, stdout, stderr]))
    }

    /// Our ends of the FIFOs that are there.
    pub(super) fn ends(&self, order: &Order) -> Result<Ends, Errno> {
        let directory = self.of(&order.id);
        let ours = |name, flags| open(&directory, name, flags | OFlags::NONBLOCK);
        let stdin = match order.stdin {
            Stdin::None => None,
            // ENXIO: the container has closed it.
            Stdin::Open | Stdin::Once => ours("stdin", OFlags::WRONLY).ok(),
        };
        let reader = |name| ours(name, OFlags::RDWR).map(Some);
        Ok(Ends { stdin, stdout: reader("stdout")?, stderr: reader("stderr")? })
    }
}

fn open(directory: &Path, name: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    rustix::fs::open(directory.join(name), flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_earlier_version_is_of_a_container_that_stays() {
        let order = Order { id: "box".to_owned(), ..Order::default() };
        let first = FirstRecord { order: order.clone(), pid: 7, start_time: 70_000 };
        let bytes = postcard::to_allocvec(&first).unwrap();
        let expected = Record { order, pid: 7, start_time: 70_000, kept: true };
        assert_eq!(Record::decode(&bytes), Some(expected));
        let now = Record { kept: false, ..Record::decode(&bytes).unwrap() };
        assert_eq!(Record::decode(&postcard::to_allocvec(&now).unwrap()), Some(now));
        assert_eq!(Record::decode(&[]), None);
    }
}
