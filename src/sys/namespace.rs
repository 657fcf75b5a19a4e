//! ioctl_nsfs(2): the type of a namespace file.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::process::last_errno;

/// The `CLONE_NEW*` flag of an open namespace file (NS_GET_NSTYPE).
///
/// # Errors
/// `ENOTTY` when the file is not a namespace.
pub fn kind_of(fd: BorrowedFd<'_>) -> Result<i32, Errno> {
    const NS_GET_NSTYPE: u32 = 0xb703;
    // SAFETY: the ioctl takes no argument and returns a number.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    if result < 0 { Err(last_errno()) } else { Ok(result) }
}
