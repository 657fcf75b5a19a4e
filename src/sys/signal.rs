//! Real-time signal numbers, and a signalfd for all signals.

use std::os::fd::OwnedFd;

use nix::sys::signal::{SigSet, Signal as Named};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::io::Errno;
use rustix::process::Signal;

use super::errno;

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
    let mut set = SigSet::all();
    for fault in [Named::SIGSEGV, Named::SIGBUS, Named::SIGILL, Named::SIGFPE, Named::SIGTRAP, Named::SIGSYS]
    {
        set.remove(fault);
    }
    set.thread_set_mask().map_err(errno)?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    SignalFd::with_flags(&set, flags).map(OwnedFd::from).map_err(errno)
}

/// Size of one signalfd_siginfo in bytes; its first four are the signal's number.
pub const SIGINFO_SIZE: usize = size_of::<libc::signalfd_siginfo>();
