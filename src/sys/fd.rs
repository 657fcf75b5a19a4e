//! Descriptors that come by number: over execve(2).

use std::os::fd::{FromRawFd, OwnedFd};

use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};

/// Takes a descriptor that this program's earlier image left open, and marks it close-on-exec. Each number may be taken
/// once.
///
/// # Errors
/// `EBADF` when nothing is open under the number.
pub fn inherit(number: i32) -> Result<OwnedFd, Errno> {
    // SAFETY: asking for the flags of any number is harmless; negative ones are refused first.
    if number < 3 || unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: it is open, and nobody in this image owns it: it came with execve, and the one caller takes each number of
    // its list once, before anything else is opened.
    let fd = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl_setfd(&fd, FdFlags::CLOEXEC)?;
    Ok(fd)
}

/// Lets a descriptor stay open over execve(2), or not any more.
///
/// # Errors
/// The errno of fcntl.
pub fn set_inheritable(fd: &OwnedFd, inheritable: bool) -> Result<(), Errno> {
    let flags = fcntl_getfd(fd)?;
    fcntl_setfd(fd, if inheritable { flags - FdFlags::CLOEXEC } else { flags | FdFlags::CLOEXEC })
}
