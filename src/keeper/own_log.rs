//! What the keeper reports of itself: to its standard error, which is the journal, or `keeper.log` in the run directory.

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::record::time::{now_ns, rfc3339};

/// Writes one line. Where nobody reads and the pipe is full, it is dropped: the keeper waits for no reader.
pub(in crate::keeper) fn warn(what: &str) {
    use std::io::Write;
    let mut stderr = [PollFd::from_borrowed_fd(rustix::stdio::stderr(), PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut stderr, Some(&now)) == Ok(0) {
        return;
    }
    let _ = writeln!(std::io::stderr(), "{} {what}", rfc3339(now_ns()));
}
