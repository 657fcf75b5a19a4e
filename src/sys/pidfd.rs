//! ioctl_pidfd(2): the exit status of a process that is not a child of this one.

use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::process::last_errno;

/// The first version of `struct pidfd_info`. KERNEL(6.13)
#[repr(C)]
#[derive(Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    pid: u32,
    tgid: u32,
    ppid: u32,
    ids: [u32; 8],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`. KERNEL(6.15)
const INFO_EXIT: u64 = 1 << 3;

/// The wait(2) status of a process that has ended and been reaped, by a pidfd that was opened before that; `None` until
/// it is reaped.
///
/// # Errors
/// `ENOTTY` or `EINVAL` where the kernel does not report it; `ESRCH` when the process was reaped before the pidfd was
/// opened.
pub fn exit_status(pidfd: BorrowedFd<'_>) -> Result<Option<i32>, Errno> {
    const PIDFD_GET_INFO: u32 = 0xc000_ff0b | (size_of::<Info>() as u32) << 16;
    let mut info = Info { mask: INFO_EXIT, ..Info::default() };
    // SAFETY: info is a live pidfd_info of the size that is part of the request; the kernel writes no more than that.
    let result = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO as _, &raw mut info) };
    match result {
        0 if info.mask & INFO_EXIT != 0 => Ok(Some(info.exit_code)),
        0 => Ok(None),
        _ => Err(last_errno()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_struct_has_the_kernels_size() {
        assert_eq!(size_of::<Info>(), 64);
        assert_eq!(std::mem::offset_of!(Info, exit_code), 60);
    }
}
