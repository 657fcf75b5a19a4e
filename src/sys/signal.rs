//! Real-time signal numbers, and a signalfd for all signals.

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Signal;

use super::process::last_errno;

/// A signal by number, including the real-time ones, which rustix does not name. `None` for a number that is no signal,
/// and for those below SIGRTMIN that libc reserves.
pub fn from_number(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number).or_else(|| {
        let is_real_time = (libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number);
        // SAFETY: the kernel knows every number in this range, and libc reserves none of them.
        is_real_time.then(|| unsafe { Signal::from_raw_unchecked(number) })
    })
}

/// Blocks all signals except those that a fault raises, and opens a signalfd(2) that receives them.
///
/// # Errors
/// The errno of sigprocmask or signalfd.
pub fn capture_all() -> Result<OwnedFd, Errno> {
    // SAFETY: sigset_t is plain data, filled by sigfillset before use; signalfd returns a new descriptor.
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

/// Size of one signalfd_siginfo in bytes; its first four are the signal's number.
pub const SIGINFO_SIZE: usize = size_of::<libc::signalfd_siginfo>();
