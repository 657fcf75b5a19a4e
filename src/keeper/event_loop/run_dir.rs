//! What the keeper has on disk: a directory for each container, in memory like all of /run, with its FIFOs and a record.
//!
//! ```text
//! <run>/keeper.sock             clients connect here
//! <run>/keeper.lock             held while a keeper or its standby lives
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

use super::life::Ran;
use crate::error::{Doing, Result};
use crate::keeper::own_log::warn;
use crate::keeper::protocol::{self, Order, Stdin};
use crate::linux::private;
use crate::linux::proc_stat::ProcStat;
use crate::record::format::{KEEPER_RECORD, Unreadable};

/// The most that a record has, in bytes: an order comes in one message.
const MOST: u64 = 1 << 20;

/// What is known of a container whose first process lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::keeper) struct Record {
    /// As it was ordered.
    pub(in crate::keeper) order: Order,
    /// Its first process.
    pub(in crate::keeper) pid: i32,
    /// When that was started, in clock ticks since boot.
    pub(in crate::keeper) start_time: u64,
    /// It is here to stay: its launch was good. The first records do not have this, and are of such containers only.
    pub(in crate::keeper) kept: bool,
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
pub(in crate::keeper) struct RunDir(PathBuf);

impl RunDir {
    pub(in crate::keeper) fn new(run: &Path) -> Self {
        Self(run.to_owned())
    }

    pub(in crate::keeper) fn run(&self) -> &Path {
        &self.0
    }

    pub(in crate::keeper) fn socket(&self) -> PathBuf {
        self.0.join("keeper.sock")
    }

    pub(in crate::keeper) fn lock(&self) -> PathBuf {
        self.0.join(crate::keeper::LOCK)
    }

    pub(in crate::keeper) fn complaints(&self) -> PathBuf {
        self.0.join("keeper.log")
    }

    pub(in crate::keeper) fn containers(&self) -> PathBuf {
        protocol::containers(&self.0)
    }

    fn of(&self, id: &str) -> PathBuf {
        self.containers().join(id)
    }

    /// Removes what there is of a container.
    pub(in crate::keeper) fn forget(&self, id: &str) {
        let _ = std::fs::remove_dir_all(self.of(id));
    }

    /// Writes a container's record.
    pub(in crate::keeper) fn save(&self, record: &Record) -> std::io::Result<()> {
        let directory = self.of(&record.order.id);
        let new = directory.join("record.new");
        let bytes = KEEPER_RECORD.encode(record).map_err(std::io::Error::other)?;
        private::replace(&directory.join("record"), &new, bytes, private::FILE)
    }

    /// The records of all containers; directories without one, of launches that came to nothing, are removed. A record that
    /// cannot be read stays, for its container may run: the keeper's log names it.
    pub(in crate::keeper) fn load(&self) -> Vec<Record> {
        let entries = std::fs::read_dir(self.containers()).into_iter().flatten().flatten();
        let mut records = Vec::new();
        for directory in entries.map(|entry| entry.path()) {
            let failed = |why: &dyn std::fmt::Display| {
                warn(&format!("read the record in {}: {why}; it is left as it is", directory.display()));
            };
            match private::read(&directory.join("record"), MOST) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    drop(std::fs::remove_dir_all(&directory));
                }
                Err(error) => failed(&error),
                Ok(bytes) => match Record::decode(&bytes) {
                    Ok(record) => records.push(record),
                    Err(error) => failed(&error),
                },
            }
        }
        records
    }

    /// Refuses records that another release wrote. A keeper that went on without them would let their containers be taken
    /// for ended ones.
    ///
    /// # Errors
    /// `Unsupported`, naming the first of them and its version.
    pub(in crate::keeper) fn check_versions(&self) -> Result<()> {
        let unknown = self.directories().find_map(|(directory, record)| {
            record.err().filter(Unreadable::is_of_another_release).map(|error| (directory, error))
        });
        match unknown {
            Some((directory, error)) => {
                Err(error.while_doing(format!("read the record in {}", directory.display())))
            }
            None => Ok(()),
        }
    }

    /// The records that there are, while perhaps another keeper serves.
    pub(in crate::keeper) fn peek(&self) -> impl Iterator<Item = Record> {
        self.directories().filter_map(|(_, record)| record.ok())
    }

    fn directories(&self) -> impl Iterator<Item = (PathBuf, Result<Record, Unreadable>)> {
        let entries = std::fs::read_dir(self.containers()).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).map(|directory| {
            let bytes = private::read(&directory.join("record"), MOST).unwrap_or_default();
            (directory, Record::decode(&bytes))
        })
    }
}

impl Record {
    fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        match KEEPER_RECORD.open(bytes)? {
            (1, body) => KEEPER_RECORD.read_body(body).or_else(|_| {
                let FirstRecord { order, pid, start_time } = KEEPER_RECORD.read_body(body)?;
                Ok(Self { order, pid, start_time, kept: true })
            }),
            (_, body) => KEEPER_RECORD.read_body(body),
        }
    }

    /// The record of a process that was just made.
    pub(in crate::keeper) fn of(order: Order, pid: i32) -> Self {
        let stat = ProcStat::read(pid).ok().flatten();
        Self { order, pid, start_time: stat.map_or(0, |stat| stat.start_time), kept: false }
    }

    /// How its process ended, while nobody has reaped it.
    pub(in crate::keeper) fn zombie_status(&self) -> Option<i32> {
        let stat = ProcStat::read(self.pid).ok().flatten()?;
        (stat.start_time == self.start_time && stat.is_dead()).then_some(stat.exit_status)
    }

    /// Whether its process has executed the container's program; unknown once somebody has reaped it.
    pub(in crate::keeper) fn ran(&self) -> Ran {
        match ProcStat::read(self.pid).ok().flatten() {
            Some(stat) if stat.start_time == self.start_time => match stat.has_executed {
                true => Ran::Yes,
                false => Ran::No,
            },
            _ => Ran::Unknown,
        }
    }
}

/// The keeper's ends of a container's streams.
#[derive(Debug, Default)]
pub(in crate::keeper) struct Ends {
    pub(in crate::keeper) stdin: Option<OwnedFd>,
    pub(in crate::keeper) stdout: Option<OwnedFd>,
    pub(in crate::keeper) stderr: Option<OwnedFd>,
}

const NAMES: [&str; 3] = ["stdin", "stdout", "stderr"];

impl RunDir {
    /// Makes a container's directory and FIFOs; answers our ends and its own. A container with a terminal has none.
    ///
    /// # Errors
    /// They cannot be made.
    pub(in crate::keeper) fn make(&self, order: &Order) -> Result<(Ends, [Option<OwnedFd>; 3])> {
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
    pub(in crate::keeper) fn ends(&self, order: &Order) -> Result<Ends, Errno> {
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
        assert_eq!(Record::decode(&bytes), Ok(expected));
        let now = Record { kept: false, ..Record::decode(&bytes).unwrap() };
        assert_eq!(Record::decode(&postcard::to_allocvec(&now).unwrap()).as_ref(), Ok(&now));
        assert_eq!(Record::decode(&KEEPER_RECORD.encode(&now).unwrap()), Ok(now));
        assert!(Record::decode(&[]).is_err());
    }

    #[test]
    fn golden_records() {
        use crate::record::golden;
        let order = Order {
            id: "box".to_owned(),
            log: Some("/var/log/box".into()),
            exit_command: vec!["rm".to_owned()],
            stdin: Stdin::Open,
            ..Order::default()
        };
        let record = Record { order, pid: 7, start_time: 70_000, kept: true };
        let bytes = KEEPER_RECORD.encode(&record).unwrap();
        golden::check("src/keeper/golden", "record", KEEPER_RECORD, &[("box", bytes.clone())]);
        for (_, before) in golden::samples("src/keeper/golden", "record", 1) {
            assert_eq!(Record::decode(&before).as_ref(), Ok(&record), "of the release before");
        }
        golden::refuses_what_it_does_not_know(KEEPER_RECORD, &bytes, |bytes| Record::decode(bytes).map(drop));
    }

    #[test]
    fn a_record_of_another_release_is_refused_and_stays() {
        let run = tempfile::tempdir().unwrap();
        let run_dir = RunDir::new(run.path());
        std::fs::create_dir_all(run_dir.of("new")).unwrap();
        std::fs::create_dir_all(run_dir.of("torn")).unwrap();
        run_dir.check_versions().unwrap();
        let file = run_dir.of("new").join("record");
        let mut bytes = KEEPER_RECORD.encode(&Record::default()).unwrap();
        bytes[2] = 9;
        std::fs::write(&file, &bytes).unwrap();
        let error = run_dir.check_versions().unwrap_err();
        assert!(error.chain().contains("version 9 of the keeper's record"), "{error:?}");
        assert_eq!(run_dir.load(), []);
        assert_eq!(std::fs::read(&file).unwrap(), bytes);
        assert!(!run_dir.of("torn").exists(), "of a launch that came to nothing");
    }
}
