//! HTTP for metrics. Whoever can connect can read everything here and change nothing; a client that is slow or sends much is
//! cut off.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::AbortHandle;

use super::keeper_probe::KeeperProbe;
use super::{collect, exposition};
use crate::error::{Doing, Result};
use crate::pod::one_line;
use crate::serve::Node;
use crate::serve::config::Listen;
use crate::serve::socket::{self, Bound};

/// The limit of open connections. A further one takes the place of the oldest that is not being answered; if all are, it is
/// closed at once.
const CONNECTIONS: usize = 8;

/// How long a client may take to send its request, and for all of a connection.
const REQUEST: Duration = Duration::from_secs(5);
const CONNECTION: Duration = Duration::from_secs(30);

/// The limit of threads that read metrics. A client that leaves does not end its thread, so these are counted by themselves.
const THREADS: usize = 4;

/// How long reading may take, including the wait for a thread: less than [`CONNECTION`], so that the client gets an answer.
const READING: Duration = Duration::from_secs(20);

/// The limit of a request, in bytes.
const REQUEST_BYTES: usize = 16 << 10;

/// The pause after a failed accept, for example when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket for metrics.
#[derive(Debug)]
pub(in crate::serve) enum Listener {
    Tcp(TcpListener),
    /// The path is removed on drop.
    Unix(UnixListener, #[expect(dead_code, reason = "removes the path on drop")] Bound),
}

/// Listens where the configuration says; none if that is nowhere. An error is logged: a port that is taken must not keep
/// the daemon from running pods.
pub(in crate::serve) fn listen(at: &Listen) -> Option<Listener> {
    let listening = match at {
        Listen::Off => return None,
        Listen::Tcp(address) => {
            if !address.ip().is_loopback() {
                crate::log::warning(&format!(
                    "metrics.listen = \"{address}\": whoever can reach this address can read the metrics"
                ));
            }
            TcpListener::bind(address).doing(|| format!("listen on {address}")).map(Listener::Tcp)
        }
        Listen::Unix(path) => {
            socket::listen(path).map(|listener| Listener::Unix(listener, Bound(path.clone())))
        }
    };
    let failed = |error: crate::error::Error| crate::log::warning(&one_line(&error.doing("serve metrics")));
    listening.map_err(failed).ok()
}

impl Listener {
    /// Serves until it is aborted.
    ///
    /// # Errors
    /// The socket cannot be set up.
    pub(in crate::serve) fn start(&self, node: &Arc<Node>) -> Result<tokio::task::JoinHandle<()>> {
        let (node, doing) = (Arc::clone(node), || "set up the socket for metrics");
        match self {
            Self::Tcp(listener) => {
                let listener = listener.try_clone().doing(doing)?;
                listener.set_nonblocking(true).doing(doing)?;
                let listener = tokio::net::TcpListener::from_std(listener).doing(doing)?;
                Ok(tokio::spawn(async move {
                    serve(node, |context| listener.poll_accept(context).map_ok(|(stream, _)| stream)).await;
                }))
            }
            Self::Unix(listener, _) => {
                let listener = socket::asynchronous(listener)?;
                Ok(tokio::spawn(async move {
                    serve(node, |context| listener.poll_accept(context).map_ok(|(stream, _)| stream)).await;
                }))
            }
        }
    }
}

/// What all connections share.
struct Shared {
    node: Arc<Node>,
    keeper: KeeperProbe,
    threads: Arc<Semaphore>,
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    node: Arc<Node>,
    accept: impl Fn(&mut Context<'_>) -> Poll<std::io::Result<S>>,
) {
    let threads = Arc::new(Semaphore::new(THREADS));
    let shared = Arc::new(Shared { node, keeper: KeeperProbe::default(), threads });
    let mut open = VecDeque::new();
    loop {
        match std::future::poll_fn(&accept).await {
            Ok(stream) => {
                if make_room(&mut open) {
                    open.push_back(Connection::start(stream, Arc::clone(&shared)));
                }
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// An open connection.
struct Connection {
    task: AbortHandle,
    /// Whether its request was received and the answer is not ready yet.
    is_being_answered: Arc<AtomicBool>,
}

impl Connection {
    fn start(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, shared: Arc<Shared>) -> Self {
        let is_being_answered = Arc::new(AtomicBool::new(false));
        let state = Arc::clone(&is_being_answered);
        let task = tokio::spawn(async move {
            // A connection that breaks or is too slow concerns nobody else.
            let _ = tokio::time::timeout(CONNECTION, connection(stream, shared, state)).await;
        });
        Self { task: task.abort_handle(), is_being_answered }
    }
}

/// Closes the oldest connection that is not being answered if there are too many, so that clients that send nothing cannot
/// keep others out. Returns whether there is room for one more.
fn make_room(open: &mut VecDeque<Connection>) -> bool {
    open.retain(|connection| !connection.task.is_finished());
    if open.len() < CONNECTIONS {
        return true;
    }
    let is_idle = |connection: &Connection| !connection.is_being_answered.load(Ordering::Relaxed);
    let idle = open.iter().position(is_idle).and_then(|index| open.remove(index));
    idle.inspect(|connection| connection.task.abort()).is_some()
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: Arc<Shared>,
    is_being_answered: Arc<AtomicBool>,
) {
    let service = service_fn(move |request| {
        let (shared, is_being_answered) = (Arc::clone(&shared), Arc::clone(&is_being_answered));
        async move {
            is_being_answered.store(true, Ordering::Relaxed);
            let answer = answer(&request, &shared).await;
            is_being_answered.store(false, Ordering::Relaxed);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(REQUEST).max_buf_size(REQUEST_BYTES).keep_alive(false);
    let _ = http.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: &Request<Incoming>, shared: &Arc<Shared>) -> Response<Full<Bytes>> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    match request.uri().path() {
        "/metrics" | "/healthz" if !is_read => {
            let mut refused =
                response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n".to_owned());
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
        "/metrics" => match read(shared, |shared| collect::metrics(&shared.node, &shared.keeper)).await {
            Ok(text) => response(StatusCode::OK, exposition::CONTENT_TYPE, text),
            Err(why) => response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, why.to_owned()),
        },
        "/healthz" => match read(shared, |shared| collect::health(&shared.node, &shared.keeper)).await {
            Ok((true, text)) => response(StatusCode::OK, PLAIN, text),
            Ok((false, text)) => response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text),
            Err(why) => response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, why.to_owned()),
        },
        _ => response(StatusCode::NOT_FOUND, PLAIN, "there are /metrics and /healthz\n".to_owned()),
    }
}

fn response(status: StatusCode, kind: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

/// Runs blocking work in a thread of its own.
///
/// # Errors
/// No thread can be started, or the work takes too long.
async fn read<T: Send + 'static>(
    shared: &Arc<Shared>,
    work: impl FnOnce(&Shared) -> T + Send + 'static,
) -> Result<T, &'static str> {
    const NONE: &str = "no thread can be started\n";
    let read = async {
        let permit = Arc::clone(&shared.threads).acquire_owned().await.map_err(|_| NONE)?;
        let (sender, receiver) = oneshot::channel();
        let shared = Arc::clone(shared);
        let thread = std::thread::Builder::new().name("metrics".to_owned()).stack_size(512 << 10);
        let work = move || {
            // Whoever waits may have left; the permit goes with the thread.
            let _permit = permit;
            drop(sender.send(work(&shared)));
        };
        thread.spawn(work).map_err(|_| NONE)?;
        receiver.await.map_err(|_| NONE)
    };
    tokio::time::timeout(READING, read).await.unwrap_or(Err("reading takes too long\n"))
}
