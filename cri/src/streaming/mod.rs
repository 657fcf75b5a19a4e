//! The streaming server: exec, attach and port-forward.
//!
//! kubelet asks for a session by a CRI call, gets a URL, and opens a connection to it, which is upgraded to SPDY/3.1 or
//! WebSocket.
//!
//! | file | holds |
//! |---|---|
//! | `tokens` | the URLs that wait to be used |
//! | `http` | the server, and the choice of a protocol |
//! | `wire` | the bytes of a connection: plain or TLS, perhaps tunnelled in WebSocket messages |
//! | `spdy`, `websocket` | frames, and their distribution to streams or channels |
//! | `channels` | standard input and output, errors, terminal sizes, whichever protocol carries them |
//! | `exec` | sessions with commands and with containers |
//! | `session` | copies between a client's channels and a command's streams |
//! | `port_forward` | copies between a client's streams and connections in a pod |
//! | `status` | how the end of a session is told |
//!
//! A session is a task of the server's one thread: it has no thread of its own, sets no timer while it runs, and holds a few
//! buffers. A client that does not read makes the command's pipe fill up, and the command waits; a command that does not read
//! makes the server stop reading from the client.
//!
//! A command is a child of this process. When its client leaves, its streams are closed, and it gets SIGHUP; when this
//! process ends, its streams are closed.

mod channels;
mod exec;
mod http;
mod port_forward;
mod session;
pub mod spdy;
mod status;
mod tokens;
pub mod websocket;
mod wire;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{fmt, io};

use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

pub use session::{Attachment, Command, LARGEST_MESSAGE, Message, Process, Streams};

use crate::backend::Backend;
use crate::error::Result;
use crate::lanes::{Lane, Lanes};
use crate::v1;
use tokens::{Prepared, Tokens};
use wire::Io;

/// The limit of connections.
const CONNECTIONS: usize = 1000;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);

/// The pause after a failed accept, for example when descriptors or memory run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address where the streaming server listens.
pub struct Streaming {
    listener: std::net::TcpListener,
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
}

impl fmt::Debug for Streaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Streaming {
    /// Listens on `address`; port 0 is a free port. With `tls`, only by TLS.
    ///
    /// # Errors
    /// The address cannot be used.
    pub fn bind(address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, tls })
    }

    /// The beginning of all URLs. kubelet is on this machine, so an address that means all interfaces is reached by the
    /// loopback interface.
    fn base(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            address.set_ip(match address {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("{}://{address}", if self.tls.is_some() { "https" } else { "http" })
    }
}

/// Makes URLs.
#[derive(Debug, Clone)]
pub(crate) struct Urls {
    base: String,
    tokens: Arc<Tokens>,
}

impl Urls {
    pub(crate) fn exec(&self, request: v1::ExecRequest) -> Result<String> {
        self.url(Prepared::Exec(request))
    }

    pub(crate) fn attach(&self, request: v1::AttachRequest) -> Result<String> {
        self.url(Prepared::Attach(request))
    }

    pub(crate) fn port_forward(&self, request: v1::PortForwardRequest) -> Result<String> {
        self.url(Prepared::PortForward(request))
    }

    fn url(&self, prepared: Prepared) -> Result<String> {
        let kind = prepared.name();
        let token = self.tokens.add(prepared, Instant::now())?;
        Ok(format!("{}/{kind}/{token}", self.base))
    }
}

/// What sessions need of the server.
struct Node<B> {
    backend: Arc<B>,
    lanes: Lanes,
    tokens: Arc<Tokens>,
    /// Runs the server's tasks.
    executor: Handle,
}

impl<B: Backend> Node<B> {
    /// Runs blocking work on another thread.
    async fn ask<A: Send + 'static>(&self, work: impl FnOnce(&B) -> Result<A> + Send + 'static) -> Result<A> {
        let backend = Arc::clone(&self.backend);
        self.lanes.of(Lane::Exec).run(move || work(&backend)).await
    }
}

/// A server that is to be run, and what makes its URLs. Must be called on the runtime that runs it.
///
/// # Errors
/// The listener cannot be used.
pub(crate) fn prepare<B: Backend>(
    streaming: Streaming,
    backend: Arc<B>,
    lanes: Lanes,
) -> io::Result<(impl Future<Output = ()> + Send, Urls)> {
    let tokens = Arc::<Tokens>::default();
    let urls = Urls { base: streaming.base(), tokens: Arc::clone(&tokens) };
    let listener = TcpListener::from_std(streaming.listener)?;
    let node = Arc::new(Node { backend, lanes, tokens, executor: Handle::current() });
    Ok((accept(listener, streaming.tls.map(TlsAcceptor::from), node), urls))
}

async fn accept<B: Backend>(listener: TcpListener, tls: Option<TlsAcceptor>, node: Arc<Node<B>>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((socket, _)) => {
                let (tls, node) = (tls.clone(), Arc::clone(&node));
                tokio::spawn(async move {
                    if let Some(io) = greet(socket, tls).await {
                        http::serve(node, io, slot).await;
                    }
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Sets a connection up; `None` when its TLS handshake fails.
async fn greet(socket: TcpStream, tls: Option<TlsAcceptor>) -> Option<Io> {
    let _ = socket.set_nodelay(true);
    let Some(tls) = tls else { return Some(Io::Plain(socket)) };
    let stream = tokio::time::timeout(HANDSHAKE, tls.accept(socket)).await.ok()?.ok()?;
    Some(Io::Tls(Box::new(stream)))
}
