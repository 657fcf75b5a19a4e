//! Which descriptors stay open.

use std::mem::MaybeUninit;

use rustix::fs::{Mode, OFlags, RawDir};
use rustix::io::Errno;

use super::{At, Outcome};
use crate::launch::wire::Op;
use crate::sys;

/// The first number that is not a standard stream.
const FIRST: u32 = 3;

/// Closes every descriptor but those in `keep`, which is sorted and whose unused places are `i32::MAX`, the standard
/// streams, and what the caller was given to pass on: numbers below `first` that do not close at execve by themselves.
///
/// # Errors
/// The errno of close_range(2), or of reading /proc/self/fd where that call is missing.
pub(super) fn close_all_but(first: u32, keep: &[i32]) -> Outcome {
    for number in FIRST..first {
        // The caller may have been given fewer than it was told to pass on: what has such a number is its own then.
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

/// One by one, and not all numbers below RLIMIT_NOFILE: there may be a million, and what is open may lie above.
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
