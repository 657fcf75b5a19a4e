//! Looks up host names by getaddrinfo(3) on a thread of its own.
//!
//! hyper can do this on a thread of tokio's; but where the kernel refuses the thread, that panics.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::Name;
use tokio::sync::oneshot;
use tower_service::Service;

/// Looks up names. A lookup that hangs keeps its thread, but not the caller.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lookup;

type Addresses = std::vec::IntoIter<SocketAddr>;

impl Service<Name> for Lookup {
    type Response = Addresses;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Addresses>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (sender, addresses) = oneshot::channel();
        // The connector sets the port.
        let look_up = move || drop(sender.send((name.as_str(), 0).to_socket_addrs()));
        let started = std::thread::Builder::new().name("lookup".to_owned()).spawn(look_up);
        Box::pin(async move {
            started.map_err(|error| io::Error::new(error.kind(), format!("start a thread: {error}")))?;
            addresses.await.unwrap_or_else(|_| Err(io::Error::other("the lookup ended without a result")))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_becomes_addresses_and_an_unknown_one_an_error() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let look_up = |name: &str| runtime.block_on(Lookup.call(name.parse().unwrap()));
        assert!(look_up("localhost").unwrap().all(|address| address.ip().is_loopback()));
        assert!(look_up("no-such-host.invalid").is_err());
    }
}
