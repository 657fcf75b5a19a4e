//! Closes the descriptors that the payload must not inherit.

use std::mem::MaybeUninit;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::{At, Outcome};
use crate::launch::wire::Op;
use crate::sys;

/// The first number that is not a standard stream.
const FIRST: u32 = 3;

/// Closes every descriptor except those in `keep`, the standard streams, and those the caller asked to pass on:
/// numbers below `first` without close-on-exec. `keep` is sorted; its unused entries are `i32::MAX`.
///
/// # Errors
/// The errno of close_range(2), or of reading /proc/self/fd where that call is missing.
pub(super) fn close_all_but(first: u32, keep: &[i32]) -> Outcome {
    for number in FIRST..first {
        // The caller may hold fewer descriptors than it was asked to pass on; then one with such a number is its own.
        let number = number.cast_signed();
        if !keep.contains(&number) && sys::process::is_close_on_exec(number) {
            sys::process::close_inherited(number);
        }
    }
    match sys::process::close_all_but(first.cast_signed(), keep) {
        // KERNEL(5.9)
        Err(Errno::NOSYS) => close_listed(first, keep),
        other => other.at(Op::CloseRange),
    }
}

/// Closes them one by one as listed in /proc: RLIMIT_NOFILE may be a million, and open descriptors may be above it.
fn close_listed(first: u32, keep: &[i32]) -> Outcome {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open_ones = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty()).at(Op::Open)?;
    let own = std::os::fd::AsRawFd::as_raw_fd(&open_ones);
    let mut buffer = [MaybeUninit::uninit(); 1024];
    let mut entries = RawDir::new(&open_ones, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.at(Op::GetDents)?;
        let number: Option<i32> = entry.file_name().to_str().ok().and_then(|name| name.parse().ok());
        let Some(number) = number else { continue };
        if number >= first.cast_signed() && number != own && !keep.contains(&number) {
            sys::process::close_inherited(number);
        }
    }
    Ok(())
}
