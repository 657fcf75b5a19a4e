//! systemd: notifications (sd_notify(3)) and socket activation.

use std::os::unix::net::UnixListener;

use crate::error::{Doing, Error, Result};
use crate::keeper::{FIRST_HANDED_OVER, handed_over};
use crate::sys::fd;

/// Notifies the supervisor, if there is one, for example of `READY=1`. Failing to is no error.
pub(super) fn notify(state: &str) {
    if let Err(error) = crate::keeper::notify(state) {
        crate::log::debug(&format!("notify the supervisor of {state:?}: {error}"));
    }
}

/// Notifies the supervisor of the start of a reload; `READY=1` ends it.
pub(super) fn notify_reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
}

/// The socket that systemd passed to this process, if any. Must be called once, before any file is opened.
///
/// # Errors
/// `Invalid` when it is not exactly one listening unix socket.
pub(super) fn inherited_socket() -> Result<Option<UnixListener>> {
    match handed_over() {
        0 => return Ok(None),
        1 => {}
        count => {
            return Err(Error::invalid(format!(
                "systemd passed {count} sockets (LISTEN_FDS); exactly one is needed"
            )));
        }
    }
    let socket = fd::inherit(FIRST_HANDED_OVER).doing(|| "take the socket passed by systemd (LISTEN_FDS)")?;
    let is_listening = rustix::net::sockopt::socket_acceptconn(&socket).unwrap_or(false);
    let is_unix = rustix::net::sockopt::socket_domain(&socket) == Ok(rustix::net::AddressFamily::UNIX);
    let is_stream = rustix::net::sockopt::socket_type(&socket) == Ok(rustix::net::SocketType::STREAM);
    if is_listening && is_unix && is_stream {
        return Ok(Some(UnixListener::from(socket)));
    }
    Err(Error::invalid("the socket passed by systemd (LISTEN_FDS) must be a listening AF_UNIX stream socket")
        .hint("the socket unit needs ListenStream= with a path"))
}
