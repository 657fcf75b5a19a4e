//! Identifies processes: a pid together with its start time names one process for ever. proc_pid_stat(5)

use std::io::Read as _;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Doing, Error, Kind, Result};

/// "Forked but didn't exec", from linux/sched.h; ps(1) shows it as flag 1.
const PF_FORKNOEXEC: u64 = 0x40;

/// The fields of /proc/PID/stat in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcStat {
    /// The state: `R`, `S`, `Z`, ...
    pub state: char,
    /// The pid of its parent; 0 if the parent is in an outer PID namespace.
    pub parent: i32,
    /// The start time in clock ticks since boot.
    pub start_time: u64,
    /// Whether it has executed a program since it was forked: PF_FORKNOEXEC of linux/sched.h is not set.
    pub has_executed: bool,
    /// The wait(2) status of its end; 0 while it lives, and for readers without permission.
    pub exit_status: i32,
}

impl ProcStat {
    /// Reads a process's stat; `None` when there is no such process.
    ///
    /// # Errors
    /// /proc cannot be read, or has an unknown format.
    pub fn read(pid: i32) -> Result<Option<Self>> {
        let path = format!("/proc/{pid}/stat");
        match read_line(&path) {
            Ok(text) => Self::parse(&text)
                .map(Some)
                .ok_or_else(|| Error::new(Kind::Corrupt, format!("{path} is not as documented"))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ESRCH) => {
                Ok(None)
            }
            Err(e) => Err(e).doing(|| format!("read {path}")),
        }
    }

    /// Whether the process is a zombie.
    pub fn is_dead(self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// The name may contain anything, including spaces and parentheses, so fields are counted from the last
    /// parenthesis.
    fn parse(text: &[u8]) -> Option<Self> {
        let end = text.iter().rposition(|b| *b == b')')?;
        let mut fields = std::str::from_utf8(text.get(end + 1..)?).ok()?.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        // state is field 3, ppid field 4, flags field 9, starttime field 22, exit_code field 52.
        let parent = fields.next()?.parse().ok()?;
        let flags: u64 = fields.nth(4)?.parse().ok()?;
        let start_time = fields.nth(12)?.parse().ok()?;
        let exit_status = fields.nth(29).and_then(|code| code.parse().ok()).unwrap_or_default();
        let has_executed = flags & PF_FORKNOEXEC == 0;
        Some(Self { state, parent, start_time, has_executed, exit_status })
    }
}

/// Reads a file of /proc that fits into one buffer, with one system call: every start of a container does this.
fn read_line(path: &str) -> std::io::Result<Vec<u8>> {
    // 52 fields of at most 20 digits, and a name of 64 bytes.
    let mut text = vec![0; 2048];
    let length = std::fs::File::open(path)?.read(&mut text)?;
    text.truncate(length);
    Ok(text)
}

/// A pidfd of the process with this pid and start time; `None` when it no longer exists. The start time is read after
/// the pidfd is open, so it belongs to the pidfd's process.
///
/// # Errors
/// The pidfd cannot be opened for another reason, such as a shortage of descriptors, which says nothing about the
/// process.
pub fn open(pid: i32, start_time: u64) -> Result<Option<OwnedFd>> {
    // A record that was tampered with may contain any number, and rustix panics at a negative one.
    let Some(known) = Pid::from_raw(pid.max(0)) else { return Ok(None) };
    let pidfd = match pidfd_open(known, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) => return Ok(None),
        // The pid has been reused by a thread.
        Err(Errno::INVAL | Errno::NOENT) => return Ok(None),
        Err(errno) => return Err(errno).doing(|| format!("open process {pid}")),
    };
    Ok(ProcStat::read(pid)?.filter(|stat| stat.start_time == start_time).map(|_| pidfd))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_spaces_and_parentheses_do_not_confuse_it() {
        let text = b"42 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 1 2 3\n";
        let expected =
            ProcStat { state: 'S', parent: 1, start_time: 98765, has_executed: true, exit_status: 0 };
        assert_eq!(ProcStat::parse(text), Some(expected));
    }

    #[test]
    fn a_process_that_was_only_forked_has_executed_nothing() {
        let forked = crate::sys::fork::fork(|| {
            std::thread::sleep(std::time::Duration::from_secs(60));
            0
        });
        let forked = forked.unwrap();
        assert!(!ProcStat::read(forked.pid()).unwrap().unwrap().has_executed);
        let mut executed = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(ProcStat::read(executed.id().cast_signed()).unwrap().unwrap().has_executed);
        executed.kill().unwrap();
        // A zombie has it, too.
        while !ProcStat::read(executed.id().cast_signed()).unwrap().unwrap().is_dead() {}
        assert!(ProcStat::read(executed.id().cast_signed()).unwrap().unwrap().has_executed);
        executed.wait().unwrap();
    }

    #[test]
    fn we_are_alive() {
        let stat = ProcStat::read(std::process::id().cast_signed()).unwrap().unwrap();
        assert!(!stat.is_dead() && stat.start_time > 0);
        assert_eq!(ProcStat::read(i32::MAX).unwrap(), None);
        let own = std::process::id().cast_signed();
        assert!(open(own, stat.start_time).unwrap().is_some());
        for (pid, start_time) in [(own, 1), (i32::MAX, 1), (0, 1), (-1, 1)] {
            assert!(open(pid, start_time).unwrap().is_none(), "{pid}");
        }
    }
}
