//! Messages to systemd and descriptors from it: sd_notify(3) and sd_listen_fds(3), without its library.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// The variable that names the socket.
const SOCKET: &str = "NOTIFY_SOCKET";

/// All variables by which systemd speaks to this process, and not to what it starts.
pub(in crate::keeper) const VARIABLES: [&str; 4] = [SOCKET, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"];

/// The first descriptor that is handed over.
pub const FIRST_HANDED_OVER: i32 = 3;

/// How long systemd may be too busy to receive something.
const PATIENCE: Duration = Duration::from_secs(3);

/// How many descriptors systemd has handed over to this process; they have to be taken before anything is opened.
pub fn handed_over() -> usize {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    let is_for_us = number("LISTEN_PID") == Some(std::process::id());
    number("LISTEN_FDS")
        .filter(|_| is_for_us)
        .and_then(|count| usize::try_from(count).ok())
        .unwrap_or_default()
}

/// Whether there is somebody to tell.
pub(in crate::keeper) fn is_supervised() -> bool {
    std::env::var_os(SOCKET).is_some_and(|path| !path.is_empty())
}

/// Tells whoever supervises this process, if anybody does, for example `READY=1`.
///
/// # Errors
/// The socket of `NOTIFY_SOCKET` cannot be reached.
pub fn notify(state: &str) -> std::io::Result<()> {
    tell(state, &[])
}

/// As [`notify`], with at most one descriptor.
pub(in crate::keeper) fn tell(state: &str, fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    let Some(path) = std::env::var_os(SOCKET).filter(|path| !path.is_empty()) else {
        return Ok(());
    };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(std::io::ErrorKind::InvalidInput.into());
    }
    let text = [IoSlice::new(state.as_bytes())];
    sendmsg(&socket, &text, &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}
