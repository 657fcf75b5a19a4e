//! A signal to every process of a list that is read from a cgroup.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::error::{Doing, Result};

/// How many processes are held open at a time: few, for the caller may have few descriptors.
const AT_A_TIME: usize = 64;

/// Sends `signal` to each process that `list` finds.
///
/// A process of the list may end, and its pid be another's, before the signal is sent. So each is opened first and
/// `list` is asked again: what it still finds by then is the one that was opened, or that one has ended.
///
/// # Errors
/// What `list` answers, and that a signal is refused. That a process has ended is no error.
pub(super) fn send(list: impl Fn() -> Result<Vec<i32>>, signal: Signal) -> Result<()> {
    let mut refused = Ok(());
    for pids in list()?.chunks(AT_A_TIME) {
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

/// Opens a process by its pid, or by that of one of its threads, which is what a threaded cgroup lists.
fn open(pid: i32) -> std::result::Result<OwnedFd, Errno> {
    let by = |pid: i32| pidfd_open(Pid::from_raw(pid.max(0)).ok_or(Errno::SRCH)?, PidfdFlags::empty());
    match by(pid) {
        // Which of the two it is depends on the kernel's version.
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

    /// Between the first list and the signal a member ends, and its pid is given to somebody who never was a member.
    #[test]
    fn who_has_the_pid_of_a_member_that_ended_is_left_alone() {
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
    fn members_get_the_signal_in_any_number_and_what_is_no_process_is_no_error() {
        use std::os::unix::process::ExitStatusExt;
        let (mut children, pids): (Vec<_>, Vec<_>) = (0..AT_A_TIME + 3).map(|_| sleeper()).unzip();
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
