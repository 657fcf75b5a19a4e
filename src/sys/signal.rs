//! Signals: real-time numbers, and a descriptor to wait for them on.

use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, Signal as Named};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use rustix::process::Signal;

use super::errno;

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
    let mut set = SigSet::all();
    for fault in [Named::SIGSEGV, Named::SIGBUS, Named::SIGILL, Named::SIGFPE, Named::SIGTRAP, Named::SIGSYS]
    {
        set.remove(fault);
    }
    set.thread_set_mask().map_err(errno)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&set, flags).map(OwnedFd::from).map_err(errno)
}

/// Size of one signalfd_siginfo, of which the first four bytes are the signal's number.
pub const SIGINFO_SIZE: usize = size_of::<libc::signalfd_siginfo>();
