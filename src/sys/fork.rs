//! fork(2) for work in a process of its own that is still this program.

use rustix::io::Errno;

use super::process::{exit_now, last_errno};

/// A child that was forked. It is killed and reaped when this is dropped.
#[derive(Debug)]
pub struct Forked {
    pid: i32,
    reaped: bool,
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With this code.
    Exited(i32),
    /// By this signal.
    Killed(i32),
}

/// Ends the child if its closure unwinds: the parent's frames below are not the child's to return to.
struct NoReturn;

impl Drop for NoReturn {
    fn drop(&mut self) {
        exit_now(101);
    }
}

/// Forks; `child` runs in the new process, which ends with the code it returns.
///
/// This is libc's fork, which leaves the allocator in order also when other threads of the caller are in it: `child` may
/// allocate. It must not wait for what another thread of the caller held at this moment: no mutex, no standard stream.
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
    /// `ECHILD` when somebody else reaped it.
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
            // SAFETY: a child that was not reaped keeps its pid.
            unsafe { libc::kill(self.pid, libc::SIGKILL) };
            let _ = self.reap();
        }
    }
}
