//! What systemd is told of the daemon, and the socket that it hands over.

use std::os::unix::net::UnixListener;

use crate::error::{Doing, Error, Result};
use crate::keeper::{FIRST_HANDED_OVER, handed_over};
use crate::sys::fd;

/// Tells whoever supervises this process, if anybody does, for example `READY=1`. That it is not heard is no failure.
pub(super) fn notify(state: &str) {
    if let Err(error) = crate::keeper::notify(state) {
        crate::log::debug(&format!("tell the supervisor of {state:?}: {error}"));
    }
}

/// Says that the configuration is being read anew; `READY=1` says that it was.
pub(super) fn notify_reloading() {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let microseconds = i128::from(now.tv_sec) * 1_000_000 + i128::from(now.tv_nsec) / 1000;
    notify(&format!("RELOADING=1\nMONOTONIC_USEC={microseconds}"));
}

/// The socket that was handed over to this process, if one was. To be asked once, before anything is opened.
///
/// # Errors
/// `Invalid` when it is not one listening unix socket.
pub(super) fn inherited_socket() -> Result<Option<UnixListener>> {
    match handed_over() {
        0 => return Ok(None),
        1 => {}
        count => {
            return Err(Error::invalid(format!(
                "{count} sockets were handed over (LISTEN_FDS); one is needed"
            )));
        }
    }
    let socket =
        fd::inherit(FIRST_HANDED_OVER).doing(|| "take the socket that was handed over (LISTEN_FDS)")?;
    let is_listening = rustix::net::sockopt::socket_acceptconn(&socket).unwrap_or(false);
    let is_unix = rustix::net::sockopt::socket_domain(&socket) == Ok(rustix::net::AddressFamily::UNIX);
    let is_stream = rustix::net::sockopt::socket_type(&socket) == Ok(rustix::net::SocketType::STREAM);
    if is_listening && is_unix && is_stream {
        return Ok(Some(UnixListener::from(socket)));
    }
    Err(Error::invalid("what was handed over (LISTEN_FDS) is no listening unix stream socket")
        .hint("the socket unit needs ListenStream= with a path"))
}
