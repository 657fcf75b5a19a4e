//! How long the set-up of a process may take.
//!
//! A process in the same PID namespace may stop the one that is set up (SIGSTOP), a filesystem below a mount may hang:
//! whoever waits for the set-up waits no longer than this.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

/// How long a set-up takes at most, hooks not counted: thousands of times as long as it takes on a board.
pub const SET_UP_LIMIT: Duration = Duration::from_secs(30);

/// A point in time after which nothing is waited for.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    limit: Duration,
    end: Instant,
}

impl Deadline {
    /// So long from now.
    pub fn after(limit: Duration) -> Self {
        Self { limit, end: Instant::now() + limit }
    }

    /// How long there was at the beginning.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// How long there is left.
    pub fn left(&self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    /// Does something that has a limit of its own, or none by its nature: its time does not count.
    pub fn suspend<T>(&mut self, action: impl FnOnce() -> T) -> T {
        let before = Instant::now();
        let answer = action();
        self.end += before.elapsed();
        answer
    }

    /// Waits until there is something to read, or the end of file.
    ///
    /// # Errors
    /// `ETIMEDOUT` when the time is up; the errno of poll(2).
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
