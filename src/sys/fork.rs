//! fork(2) for work that needs a process of its own but still runs this program's code.

use rustix::io::Errno;

use super::process::{exit_now, last_errno};

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
    match unsafe { libc::fork() } {
        -1 => Err(last_errno()),
        0 => {
            let _stay = NoReturn;
            exit_now(child())
        }
        pid => Ok(Forked { pid, reaped: false }),
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
        let mut status = 0;
        loop {
            // SAFETY: status is a live int; the pid is a child of ours that nobody has reaped.
            if unsafe { libc::waitpid(self.pid, &raw mut status, 0) } >= 0 {
                break;
            }
            match last_errno() {
                Errno::INTR => {}
                errno => {
                    self.reaped = true;
                    return Err(errno);
                }
            }
        }
        self.reaped = true;
        Ok(if libc::WIFEXITED(status) {
            Ended::Exited(libc::WEXITSTATUS(status))
        } else {
            Ended::Killed(libc::WTERMSIG(status))
        })
    }
}

impl Drop for Forked {
    fn drop(&mut self) {
        if !self.reaped {
            // SAFETY: the pid of a child that was not reaped is not reused.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            let _ = self.reap();
        }
    }
}
