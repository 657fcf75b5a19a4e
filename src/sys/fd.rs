//! Descriptors inherited over execve(2), which this program knows by number only.

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};

/// Takes ownership of a descriptor that this process opened before its last execve, and marks it close-on-exec. Each
/// number may be taken once.
///
/// # Errors
/// `EBADF` when no descriptor has this number.
pub fn inherit(number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: F_GETFD is harmless for any number; negative numbers are refused first.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: the descriptor is open, and nothing in this process owns it yet: it was inherited over execve, and the
    // one caller takes each number of its list once, before anything else is opened.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Sets whether a descriptor stays open over execve(2).
///
/// # Errors
/// The errno of fcntl.
pub fn set_inheritable(fd: &OwnedFd, inheritable: bool) -> Result<(), Errno> {
    let flags = fcntl_getfd(fd)?;
    fcntl_setfd(fd, if inheritable { flags - FdFlags::CLOEXEC } else { flags | FdFlags::CLOEXEC })
}
