//! Signals: real-time numbers, and a descriptor to wait for them on.

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Signal;

use super::process::last_errno;

/// A signal by number, real-time ones included, which rustix does not name. `None` for what is no signal, and for those
/// below SIGRTMIN that libc keeps for itself.
pub fn from_number(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number).or_else(|| {
        let is_real_time = (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number);
        // SAFETY: the kernel knows every number in this range, and none of them is libc's own.
        is_real_time.then(|| unsafe { Signal::from_raw_unchecked(number) })
    })
}

/// Blocks all signals but those a fault raises, and opens a signalfd(2) for them: from here on they are read.
///
/// # Errors
/// The errno of sigprocmask or signalfd.
pub fn capture_all() -> Result<OwnedFd, Errno> {
    // SAFETY: sigset_t is plain data, filled by sigfillset before use; signalfd answers a fresh descriptor.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        for fault in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS] {
            libc::sigdelset(&raw mut set, fault);
        }
        if libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(last_errno());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(last_errno()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Size of one signalfd_siginfo, of which the first four bytes are the signal's number.
pub const SIGINFO_SIZE: usize = size_of::<libc::signalfd_siginfo>();
