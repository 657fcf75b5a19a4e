//! The time limit of a process's set-up.
//!
//! A process in the same PID namespace may stop (SIGSTOP) the one that is being set up, and a filesystem may hang.
//! The parent waits no longer than this limit.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// The longest a set-up may take, not counting hooks: thousands of times what it takes on a small board.
pub const SET_UP_LIMIT: Duration = Duration::from_secs(30);

/// A point in time at which waiting ends.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    limit: Duration,
    end: Instant,
}

impl Deadline {
    /// The deadline `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Self { limit, end: Instant::now() + limit }
    }

    /// The limit this deadline started with.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// The time left; zero after the deadline.
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Runs `action` without counting its time, because it has a limit of its own (a hook's timeout) or none.
    pub fn suspend<T>(&mut self, action: impl FnOnce() -> T) -> T {
        let before = Instant::now();
        let result = action();
        self.end += before.elapsed();
        result
    }

    /// Waits until `fd` is readable or at end of file.
    ///
    /// # Errors
    /// `ETIMEDOUT` at the deadline; the errno of poll(2).
    pub fn wait_readable(&self, fd: BorrowedFd<'_>) -> Result<(), Errno> {
        loop {
            let left = self.left();
            let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Err(Errno::TIMEDOUT),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}
