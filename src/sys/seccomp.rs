//! seccomp(2), which neither nix nor rustix wraps.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// Installs the filter `program` for the calling thread and its future children: seccomp(2), `SECCOMP_SET_MODE_FILTER`.
/// `flags` are `SECCOMP_FILTER_FLAG_*`. With `NEW_LISTENER` it returns the listener, close-on-exec.
///
/// *Child-safe.*
///
/// # Errors
/// `EACCES` without `CAP_SYS_ADMIN` and without no_new_privs; `EINVAL` for a program or flags that the kernel rejects;
/// `EBUSY` when a listener exists already; `ESRCH` when `TSYNC` met a thread with other filters.
pub fn install(flags: u32, program: &[libc::sock_filter]) -> Result<Option<OwnedFd>, Errno> {
    let filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::INVAL)?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `filter` points to `len` instructions that `program` keeps alive and unchanged during the call; the kernel
    // only reads them (the pointer is mutable in the C declaration alone).
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::c_ulong::from(libc::SECCOMP_SET_MODE_FILTER),
            libc::c_ulong::from(flags),
            &raw const filter,
        )
    };
    if result < 0 {
        return Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::INVAL));
    }
    if libc::c_ulong::from(flags) & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
        let fd = RawFd::try_from(result).map_err(|_| Errno::BADF)?;
        // SAFETY: with NEW_LISTENER the kernel returns a descriptor it just created, which nothing else owns.
        return Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }));
    }
    // Without NEW_LISTENER and TSYNC_ESRCH a positive result is the id of a thread that TSYNC could not synchronize.
    if result == 0 { Ok(None) } else { Err(Errno::SRCH) }
}
