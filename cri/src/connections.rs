//! Accepts connections, and closes one when there are too many.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tonic::codegen::http;

use crate::backend::{Backend, RuntimeBackend};
use crate::lanes::Lanes;
use crate::limits::{Limits, Load};
use crate::server::{Router, Services};
use crate::streaming::{self, Streaming, Urls};

/// The limit of open calls per connection; kubelet uses one connection for everything.
const OPEN_CALLS: u32 = 500;

/// HTTP/2 flow-control windows in bytes: for one call, and for all calls of a connection.
const CALL_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;

/// The limit of a request's headers, in bytes.
const HEADERS: u32 = 16 << 10;

/// How many calls a client may reset before the server has accepted them, or get wrong, until the connection is closed.
const RESETS: usize = 20;
const WRONG_CALLS: usize = 200;

/// The length of the client's connection preface: RFC 9113, section 3.4.
const PREFACE: usize = 24;

/// The pause after a failed accept, for example when descriptors or memory run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the CRI on `listener` until `shutdown` is ready, and then until every open call is answered; sessions of
/// `streaming` go on until the runtime ends. Without `streaming` there are none. Runs on a current-thread runtime with I/O
/// and time enabled; blocking work runs on other threads.
///
/// # Errors
/// The address of `streaming` cannot be used.
pub async fn serve<B: Backend>(
    listener: UnixListener,
    streaming: Option<Streaming>,
    backend: Arc<B>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let lanes = Lanes::new(limits.parallel_calls);
    let (streams, urls) = streaming
        .map(|streaming| streaming::prepare(streaming, Arc::clone(&backend), lanes.clone()))
        .transpose()?
        .unzip();
    let _streams = streams.map(|streams| AbortOnDrop(tokio::spawn(streams)));
    serve_these(Services::All, (lanes, urls), listener, backend, limits, shutdown).await;
    Ok(())
}

/// As [`serve`], but only what cAdvisor asks of containerd ([`crate::containerd`]).
pub async fn serve_containerd<B: Backend>(
    listener: UnixListener,
    backend: Arc<B>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let lanes = Lanes::new(limits.parallel_calls);
    serve_these(Services::Containerd, (lanes, None), listener, backend, limits, shutdown).await;
}

async fn serve_these<B: Backend>(
    services: Services,
    (lanes, urls): (Lanes, Option<Urls>),
    listener: UnixListener,
    backend: Arc<B>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let load = Load::new(limits);
    let router = Router::new(Arc::clone(&backend), Arc::clone(&load), services, lanes, urls);
    let open = Arc::new(Open::default());
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut giving_back = pin!(load.give_back(&*backend));
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            () = &mut giving_back => break,
            accepted = listener.accept() => accepted,
            // At once, not at the next connection: until then the task keeps the memory of a whole connection.
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let Some(guard) = open.take_slot(limits.connections) else { continue };
                let connection = connection(stream, router.clone(), guard, limits.preface, stopping.clone());
                let load = Arc::clone(&load);
                connections.spawn(async move {
                    connection.await;
                    load.connection_ended();
                });
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    drop(listener);
    // Its streams never end of their own accord.
    if let Some(hub) = backend.runtime().events().filter(|_| services == Services::All) {
        hub.end();
    }
    stop.send_replace(true);
    while connections.join_next().await.is_some() {}
}

/// A task that ends with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn connection<B: Backend>(
    stream: UnixStream,
    router: Router<B>,
    guard: SlotGuard,
    preface: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let slot = Arc::clone(&guard.slot);
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        let call = Arc::new(slot.begin_call());
        // For a stream that goes on after its response has begun.
        request.extensions_mut().insert(Arc::clone(&call));
        let handled = router.clone().handle(request);
        async move {
            let response = handled.await;
            drop(call);
            response
        }
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.max_concurrent_streams(OPEN_CALLS)
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(WRONG_CALLS);
    let stream = CountingStream { inner: stream, slot: Arc::clone(&guard.slot) };
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    // Errors of a connection are not logged: the client is gone, or does not speak HTTP/2.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = guard.slot.evicted.notified() => return,
        () = guard.slot.preface_timeout(preface) => return,
        _ = stopping.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = guard.slot.preface_timeout(preface) => {}
    }
}

/// The open connections.
#[derive(Default)]
struct Open(Mutex<Vec<Arc<Slot>>>);

impl Open {
    /// A slot for a new connection. If all are taken, closes the connection that has been idle for the longest time,
    /// preferring those that have never made a call: kubelet's is idle between its calls. `None` if all have open calls.
    fn take_slot(self: &Arc<Self>, most: usize) -> Option<SlotGuard> {
        let mut slots = self.lock();
        if slots.len() >= most {
            let idle = slots.iter().enumerate().filter_map(|(index, slot)| Some((slot.idle_rank()?, index)));
            let (_, index) = idle.min()?;
            slots.swap_remove(index).evicted.notify_one();
        }
        let slot = Arc::new(Slot::new());
        slots.push(Arc::clone(&slot));
        Some(SlotGuard { slot, open: Arc::clone(self) })
    }

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The slot of an open connection; released on drop.
struct SlotGuard {
    slot: Arc<Slot>,
    open: Arc<Open>,
}

impl Drop for SlotGuard {
    fn drop(&mut self) {
        self.open.lock().retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

/// The state of a connection.
struct Slot {
    /// How many bytes of the preface were received.
    received: AtomicUsize,
    calls: AtomicUsize,
    has_called: AtomicBool,
    /// When the last call ended, or the connection was accepted.
    idle_since: Mutex<Instant>,
    evicted: Notify,
}

impl Slot {
    fn new() -> Self {
        let (received, calls, has_called) = Default::default();
        Self { received, calls, has_called, idle_since: Mutex::new(Instant::now()), evicted: Notify::new() }
    }

    /// Whether it has ever made a call, and since when it has been idle; `None` while a call is open.
    fn idle_rank(&self) -> Option<(bool, Instant)> {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = (self.has_called.load(Ordering::Relaxed), since);
        (self.calls.load(Ordering::Relaxed) == 0).then_some(rest)
    }

    fn begin_call(self: &Arc<Self>) -> Working {
        self.has_called.store(true, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        Working(Arc::clone(self))
    }

    /// Completes if the client has not sent its preface within `limit`; otherwise never.
    async fn preface_timeout(&self, limit: Duration) {
        if self.received.load(Ordering::Relaxed) < PREFACE {
            tokio::time::sleep(limit).await;
        }
        if self.received.load(Ordering::Relaxed) >= PREFACE {
            std::future::pending::<()>().await;
        }
    }
}

/// An open call of a connection; a connection with one is not idle.
pub(crate) struct Working(Arc<Slot>);

impl Drop for Working {
    fn drop(&mut self) {
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that counts received bytes.
struct CountingStream {
    inner: UnixStream,
    slot: Arc<Slot>,
}

impl AsyncRead for CountingStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let received = self.slot.received.load(Ordering::Relaxed);
        if received < PREFACE {
            self.slot.received.store(received + buffer.filled().len() - before, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for CountingStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
