//! mount_setattr(2), the one call of the new mount API that rustix lacks.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use super::process::last_errno;

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`, `MS_UNBINDABLE`, or 0.
    pub propagation: u64,
    /// The descriptor number of the user namespace whose id maps apply, with `MOUNT_ATTR_IDMAP` in `set`.
    pub userns_fd: u64,
}

/// `MOUNT_ATTR_RDONLY`
pub const ATTR_RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`
pub const ATTR_NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`
pub const ATTR_NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`
pub const ATTR_NOEXEC: u64 = 0x8;
/// `MOUNT_ATTR__ATIME`: the mask of the three access-time modes.
pub const ATTR_ATIME: u64 = 0x70;
/// `MOUNT_ATTR_NOATIME`
pub const ATTR_NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`
pub const ATTR_STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR_NODIRATIME`
pub const ATTR_NODIRATIME: u64 = 0x80;
/// `MOUNT_ATTR_IDMAP`
pub const ATTR_IDMAP: u64 = 0x10_0000;
/// `MOUNT_ATTR_NOSYMFOLLOW`
pub const ATTR_NOSYMFOLLOW: u64 = 0x20_0000;

/// `MS_REC` of mount(2): includes all mounts below.
pub const REC: u64 = 0x4000;
/// `MS_UNBINDABLE`
pub const UNBINDABLE: u64 = 1 << 17;
/// `MS_PRIVATE`
pub const PRIVATE: u64 = 1 << 18;
/// `MS_SLAVE`
pub const SLAVE: u64 = 1 << 19;
/// `MS_SHARED`
pub const SHARED: u64 = 1 << 20;

/// mount_setattr(2) on the mount whose root is `fd`, and with `recursive` on all mounts below it. Child-safe.
/// KERNEL(5.12)
///
/// # Errors
/// `ENOSYS` before 5.12, `EINVAL` when the descriptor is not a mount's root.
pub fn mount_setattr(fd: BorrowedFd<'_>, recursive: bool, attr: &MountAttr) -> Result<(), Errno> {
    setattr_at(
        fd.as_raw_fd(),
        c"",
        libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 },
        attr,
    )
}

/// mount_setattr(2) on the mount at an absolute path. Child-safe.
///
/// # Errors
/// As [`mount_setattr`].
pub fn mount_setattr_path(path: &CStr, recursive: bool, attr: &MountAttr) -> Result<(), Errno> {
    setattr_at(libc::AT_FDCWD, path, if recursive { libc::AT_RECURSIVE } else { 0 }, attr)
}

fn setattr_at(fd: i32, path: &CStr, flags: i32, attr: &MountAttr) -> Result<(), Errno> {
    // SAFETY: path is a C string, attr a live mount_attr of the size given; the kernel only reads both.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            path.as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}
