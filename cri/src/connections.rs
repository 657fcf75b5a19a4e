//! Connections: who gets one, and which is closed when there are too many.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use crate::backend::Backend;
use crate::limits::{Limits, Load};
use crate::server::Router;

/// Calls that one connection may have open; kubelet uses one connection for everything.
const OPEN_CALLS: u32 = 500;

/// Bytes that a client may send before they are read: for one call, and for all calls of a connection.
const CALL_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;

/// Bytes of the headers of a request.
const HEADERS: u32 = 16 << 10;

/// Calls that a client may take back before they were looked at, and that may be wrong, until the connection is closed.
const RESETS: usize = 20;
const WRONG_CALLS: usize = 200;

/// The length of what a client sends first: RFC 9113, section 3.4.
const PREFACE: usize = 24;

/// The pause after an accept that failed, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers the CRI on `listener` until `shutdown` is ready, and then until every open call is answered. Runs on a
/// current-thread runtime with I/O and time enabled; everything that blocks goes to threads of its own.
pub async fn serve<B: Backend>(
    listener: UnixListener,
    backend: Arc<B>,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
) {
    let load = Load::new(limits);
    let router = Router::new(Arc::clone(&backend), Arc::clone(&load));
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
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                let Some(place) = open.take_place(limits.connections) else { continue };
                let connection = connection(stream, router.clone(), place, limits.preface, stopping.clone());
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
    stop.send_replace(true);
    while connections.join_next().await.is_some() {}
}

async fn connection<B: Backend>(
    stream: UnixStream,
    router: Router<B>,
    place: Place,
    preface: Duration,
    mut stopping: watch::Receiver<bool>,
) {
    let slot = Arc::clone(&place.slot);
    let answer = service_fn(move |request| {
        let call = slot.begin_call();
        let answer = router.clone().answer(request);
        async move {
            let answered = answer.await;
            drop(call);
            answered
        }
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.max_concurrent_streams(OPEN_CALLS)
        .initial_stream_window_size(CALL_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEADERS)
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(WRONG_CALLS);
    let stream = Heard { inner: stream, slot: Arc::clone(&place.slot) };
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
    // A connection's errors are the client's to see: it is gone, or does not speak HTTP/2.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = place.slot.evicted.notified() => return,
        () = place.slot.stays_silent(preface) => return,
        _ = stopping.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    tokio::select! {
        _ = connection => {}
        () = place.slot.stays_silent(preface) => {}
    }
}

/// The connections that are open.
#[derive(Default)]
struct Open(Mutex<Vec<Arc<Slot>>>);

impl Open {
    /// A place for one more; if there is none, that of the one that has been idle for the longest time, of those that have
    /// made no call yet if there are any: kubelet's rests between its calls. `None` when all have calls open.
    fn take_place(self: &Arc<Self>, most: usize) -> Option<Place> {
        let mut slots = self.lock();
        if slots.len() >= most {
            let idle = slots.iter().enumerate().filter_map(|(index, slot)| Some((slot.rests()?, index)));
            let (_, index) = idle.min()?;
            slots.swap_remove(index).evicted.notify_one();
        }
        let slot = Arc::new(Slot::new());
        slots.push(Arc::clone(&slot));
        Some(Place { slot, open: Arc::clone(self) })
    }

    /// No foreign code runs under the lock, so a poisoned one has a sound list behind it.
    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Slot>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among those that are open; given back when dropped.
struct Place {
    slot: Arc<Slot>,
    open: Arc<Open>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.lock().retain(|slot| !Arc::ptr_eq(slot, &self.slot));
    }
}

/// What is known of a connection.
struct Slot {
    /// Bytes that came, up to the length of the preface.
    heard: AtomicUsize,
    calls: AtomicUsize,
    has_called: AtomicBool,
    /// When the last call ended, or the connection was made.
    idle_since: Mutex<Instant>,
    evicted: Notify,
}

impl Slot {
    fn new() -> Self {
        let (heard, calls, has_called) = Default::default();
        Self { heard, calls, has_called, idle_since: Mutex::new(Instant::now()), evicted: Notify::new() }
    }

    /// Whether it has made a call, and since when it has none open; `None` while it has.
    fn rests(&self) -> Option<(bool, Instant)> {
        let since = *self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = (self.has_called.load(Ordering::Relaxed), since);
        (self.calls.load(Ordering::Relaxed) == 0).then_some(rest)
    }

    fn begin_call(self: &Arc<Self>) -> Working {
        self.has_called.store(true, Ordering::Relaxed);
        self.calls.fetch_add(1, Ordering::Relaxed);
        Working(Arc::clone(self))
    }

    /// Ends when the client has not sent its preface within `limit`; otherwise never.
    async fn stays_silent(&self, limit: Duration) {
        if self.heard.load(Ordering::Relaxed) < PREFACE {
            tokio::time::sleep(limit).await;
        }
        if self.heard.load(Ordering::Relaxed) >= PREFACE {
            std::future::pending::<()>().await;
        }
    }
}

/// A call of a connection that is open.
struct Working(Arc<Slot>);

impl Drop for Working {
    fn drop(&mut self) {
        *self.0.idle_since.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream that notes how much came of it.
struct Heard {
    inner: UnixStream,
    slot: Arc<Slot>,
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buffer))?;
        let heard = self.slot.heard.load(Ordering::Relaxed);
        if heard < PREFACE {
            self.slot.heard.store(heard + buffer.filled().len() - before, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heard {
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
