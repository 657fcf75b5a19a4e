//! Sets the loopback interface of a new network namespace up, by netdevice(7) ioctls.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::io::Errno;

use super::process::last_errno;

/// Sets `IFF_UP` on `lo` of the calling thread's network namespace. Child-safe.
///
/// # Errors
/// The errno of socket(2) or of the ioctl: `EPERM` without CAP_NET_ADMIN over the namespace.
pub fn bring_up() -> Result<(), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    set_up(&socket)
}

fn set_up(socket: &OwnedFd) -> Result<(), Errno> {
    // SAFETY: an ifreq of zeros is valid; its name is set to "lo" and a NUL, its union to the flags; the kernel only
    // reads it.
    let result = unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        request.ifr_ifru.ifru_flags =
            (libc::IFF_UP | libc::IFF_RUNNING | libc::IFF_LOOPBACK) as libc::c_short;
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)
    };
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}
