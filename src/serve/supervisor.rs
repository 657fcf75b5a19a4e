//! What systemd is told, and what it hands over: sd_notify(3) and sd_listen_fds(3), without its library.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};

use crate::error::{Doing, Error, Result};
use crate::sys::fd;

/// The first descriptor that is handed over.
const FIRST: i32 = 3;

/// Tells whoever supervises this process, if anybody does, for example `READY=1`. That it is not heard is no failure.
pub(super) fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty()) else { return };
    let address = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(&path),
    };
    let sent = address
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop));
    if let Err(error) = sent {
        crate::log::debug(&format!("tell {} of {state:?}: {error}", path.display()));
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
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => return Ok(None),
        Some(1) => {}
        Some(count) => {
            return Err(Error::invalid(format!(
                "{count} sockets were handed over (LISTEN_FDS); one is needed"
            )));
        }
    }
    let socket = fd::inherit(FIRST).doing(|| "take the socket that was handed over (LISTEN_FDS)")?;
    let is_listening = rustix::net::sockopt::socket_acceptconn(&socket).unwrap_or(false);
    let is_unix = rustix::net::sockopt::socket_domain(&socket) == Ok(rustix::net::AddressFamily::UNIX);
    let is_stream = rustix::net::sockopt::socket_type(&socket) == Ok(rustix::net::SocketType::STREAM);
    if is_listening && is_unix && is_stream {
        return Ok(Some(UnixListener::from(socket)));
    }
    Err(Error::invalid("what was handed over (LISTEN_FDS) is no listening unix stream socket")
        .hint("the socket unit needs ListenStream= with a path"))
}
