//! fork(2) for work that needs a process of its own but still runs this program's code.

use nix::sys::signal::{Signal, kill};
use nix::unistd::{ForkResult, Pid};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{WaitOptions, waitpid};

use super::errno;
use super::process::exit_now;

/// A forked child. Dropping this kills and reaps the child.
#[derive(Debug)]
pub struct Forked {
    pid: i32,
    reaped: bool,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The exit code.
    Exited(i32),
    /// The signal that killed the child.
    Killed(i32),
}

/// Ends the child if its closure unwinds: the stack frames below belong to the parent and must not run twice.
struct NoReturn;

impl Drop for NoReturn {
    fn drop(&mut self) {
        exit_now(101);
    }
}

/// Forks; `child` runs in the new process, which ends with the code it returns.
///
/// libc's fork leaves the allocator usable even when other threads of the caller are inside it, so `child` may
/// allocate. It must not wait for anything that another thread of the caller may hold at this moment: no mutex, no
/// standard stream.
///
/// # Errors
/// The errno of fork.
pub fn fork(child: impl FnOnce() -> i32) -> Result<Forked, Errno> {
    // SAFETY: the child runs `child` on its own copy of this frame and never leaves it (NoReturn, exit_now).
    match unsafe { nix::unistd::fork() } {
        Err(error) => Err(errno(error)),
        Ok(ForkResult::Child) => {
            let _stay = NoReturn;
            exit_now(child())
        }
        Ok(ForkResult::Parent { child }) => Ok(Forked { pid: child.as_raw(), reaped: false }),
    }
}

impl Forked {
    /// The child's process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Waits until the child has ended.
    ///
    /// # Errors
    /// `ECHILD` when something else reaped the child.
    pub fn wait(mut self) -> Result<Ended, Errno> {
        self.reap()
    }

    fn reap(&mut self) -> Result<Ended, Errno> {
        // Not nix's: it refuses the status of a child that a real-time signal has ended.
        let pid = rustix::process::Pid::from_raw(self.pid);
        let status = retry_on_intr(|| waitpid(pid, WaitOptions::empty()));
        self.reaped = true;
        let (_, status) = status?.ok_or(Errno::CHILD)?;
        let killed = || Ended::Killed(status.terminating_signal().unwrap_or_default());
        Ok(status.exit_status().map_or_else(killed, Ended::Exited))
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        if !self.reaped {
            // The pid of a child that was not reaped is not reused.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
            let _ = self.reap();
        }
    }
}
