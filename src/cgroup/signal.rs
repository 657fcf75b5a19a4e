//! Sends a signal to every process of a list that is read from a cgroup.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Doing, Result};

/// How many processes are held open at once: few, because the caller may have few descriptors.
const BATCH: usize = 64;

/// Sends `signal` to each process that `list` returns.
///
/// A listed process may end, and another process may get its pid, before the signal is sent. So each is opened first
/// and `list` is called again: a pid that is still listed is that of the opened process, or that process has ended.
///
/// # Errors
/// Those of `list`, and that the signal is refused. A process that has ended is no error.
pub(super) fn send(list: impl Fn() -> Result<Vec<i32>>, signal: Signal) -> Result<()> {
    let mut refused = Ok(());
    for pids in list()?.chunks(BATCH) {
        let mut opened = Vec::with_capacity(pids.len());
        for pid in pids {
            match open(*pid) {
                Ok(pidfd) => opened.push((*pid, pidfd)),
                Err(Errno::SRCH) => {}
                Err(errno) => refused = Err(errno).doing(|| format!("open process {pid}")),
            }
        }
        let members: BTreeSet<i32> = list()?.into_iter().collect();
        for (pid, pidfd) in opened.iter().filter(|(pid, _)| members.contains(pid)) {
            match pidfd_send_signal(pidfd, signal) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(errno) => refused = Err(errno).doing(|| format!("send {signal:?} to process {pid}")),
            }
        }
    }
    refused
}

/// Opens a process by its pid, or by the pid of one of its threads, which is what a threaded cgroup lists.
fn open(pid: i32) -> std::result::Result<OwnedFd, Errno> {
    let by = |pid: i32| pidfd_open(Pid::from_raw(pid.max(0)).ok_or(Errno::SRCH)?, PidfdFlags::empty());
    match by(pid) {
        // The kernel's version decides which of the two errors it is.
        Err(Errno::INVAL | Errno::NOENT) => by(process_of(pid).ok_or(Errno::SRCH)?),
        other => other,
    }
}

/// The process that a thread belongs to.
fn process_of(thread: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> (Child, i32) {
        let child = Command::new("sleep").arg("1000").spawn().unwrap();
        let pid = child.id().cast_signed();
        (child, pid)
    }

    fn end(mut child: Child) -> std::process::ExitStatus {
        let _ = child.kill();
        child.wait().unwrap()
    }

    /// A member ends between the first list and the signal, and a process that never was a member gets its pid.
    #[test]
    fn a_process_that_reuses_the_pid_of_a_member_gets_no_signal() {
        let (mut stranger, pid) = sleeper();
        let asked = Cell::new(0);
        let list = || {
            asked.set(asked.get() + 1);
            Ok(if asked.get() == 1 { vec![pid] } else { Vec::new() })
        };
        send(list, Signal::TERM).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert!(stranger.try_wait().unwrap().is_none(), "the stranger lives");
        end(stranger);
    }

    #[test]
    fn any_number_of_members_gets_the_signal_and_an_ended_one_is_no_error() {
        use std::os::unix::process::ExitStatusExt;
        let (mut children, pids): (Vec<_>, Vec<_>) = (0..BATCH + 3).map(|_| sleeper()).unzip();
        let list = || Ok(pids.iter().copied().chain([0, -1, i32::MAX]).collect());
        send(list, Signal::TERM).unwrap();
        for child in &mut children {
            assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        }
        send(list, Signal::TERM).unwrap();
    }

    #[test]
    fn a_thread_stands_for_its_process() {
        let thread = std::thread::spawn(|| open(rustix::thread::gettid().as_raw_nonzero().get()).is_ok());
        assert!(thread.join().unwrap());
        assert_eq!(process_of(std::process::id().cast_signed()), Some(std::process::id().cast_signed()));
    }
}
