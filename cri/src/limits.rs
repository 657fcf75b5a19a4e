//! Limits for what clients can make the server hold, and the return of memory after a burst.
//!
//! All clients run as root, but a runaway one must not exhaust the memory of a small machine or lock out kubelet.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::Notify;
use tokio::time::Sleep;
use tonic::Status;
use tonic::codegen::StdError;

use crate::MESSAGE_LIMIT;
use crate::backend::Backend;

/// Limits over all clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Calls that run at a time; others wait for a thread.
    pub parallel_calls: usize,
    /// Open calls of all connections together; a further call fails.
    pub open_calls: usize,
    /// Open connections. A further one replaces the connection that has been idle for the longest time, preferring those that
    /// have never made a call; if none is idle, the new one is closed.
    pub connections: usize,
    /// How long a client may take to send the HTTP/2 connection preface.
    pub preface: Duration,
    /// How long a request may take to arrive.
    pub request: Duration,
    /// How long a client may take to read the next part of a streamed list; then the rest of the list is dropped.
    pub part: Duration,
    /// Bytes of large requests held at a time, of all connections together; a further request fails.
    pub request_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            parallel_calls: 32,
            open_calls: 1000,
            connections: 256,
            preface: Duration::from_secs(10),
            request: Duration::from_secs(30),
            part: Duration::from_secs(30),
            request_bytes: 2 * MESSAGE_LIMIT,
        }
    }
}

/// How many bytes of each request are not counted, so that ordinary calls succeed whatever other clients send.
const SMALL: usize = 16 << 10;

/// The amount of work after which returning memory is worth a wake-up, in bytes of requests; each call and each connection
/// counts as some bytes.
const MUCH: usize = 1 << 20;
const CALL: usize = 16 << 10;
const CONNECTION: usize = 48 << 10;

/// The delays after which memory is returned: once the burst is over, and once its threads have ended.
const PAUSES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(6)];

/// What is held now, and how much work was done since memory was returned.
pub(crate) struct Load {
    pub(crate) limits: Limits,
    open_calls: AtomicUsize,
    request_bytes: AtomicUsize,
    since: AtomicUsize,
    much: Notify,
}

impl Load {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        let (open_calls, request_bytes, since) = Default::default();
        Arc::new(Self { limits, open_calls, request_bytes, since, much: Notify::new() })
    }

    /// Counts a call as open until the returned guard is dropped.
    ///
    /// # Errors
    /// `ResourceExhausted` when the limit is reached.
    pub(crate) fn open(self: &Arc<Self>) -> Result<OpenCall, Status> {
        let call = OpenCall(Arc::clone(self));
        if self.open_calls.fetch_add(1, Ordering::Relaxed) < self.limits.open_calls {
            return Ok(call);
        }
        let limit = self.limits.open_calls;
        Err(Status::resource_exhausted(format!("{limit} calls are open; try again when some have ended")))
    }

    /// Counts work; after enough of it, memory is returned.
    fn count(&self, bytes: usize) {
        if self.since.fetch_add(bytes, Ordering::Relaxed) + bytes >= MUCH {
            self.since.store(0, Ordering::Relaxed);
            self.much.notify_one();
        }
    }

    /// Counts a closed connection.
    pub(crate) fn connection_ended(&self) {
        self.count(CONNECTION);
    }

    /// Makes `backend` return memory some time after a burst; without load it sleeps. Never completes.
    pub(crate) async fn give_back<B: Backend>(&self, backend: &B) {
        loop {
            self.much.notified().await;
            for pause in PAUSES {
                tokio::time::sleep(pause).await;
                backend.give_back();
            }
        }
    }

    /// Reserves more bytes for a request.
    fn take(&self, bytes: usize) -> Result<(), Status> {
        let limit = self.limits.request_bytes;
        let fits = |held: usize| held.checked_add(bytes).filter(|all| *all <= limit);
        match self.request_bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(_) => Err(Status::resource_exhausted(format!(
                "more than {limit} bytes of requests are being received; try again"
            ))),
        }
    }

    fn put_back(&self, bytes: usize) {
        self.request_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// An open call.
pub(crate) struct OpenCall(Arc<Load>);

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.0.open_calls.fetch_sub(1, Ordering::Relaxed);
        self.0.count(CALL);
    }
}

/// The body of a request, with its reservation. The length that the request announces is reserved, because tonic allocates
/// that much at once (gRPC framing: a byte of flags, four of length, the message).
pub(crate) struct Counted {
    inner: Incoming,
    load: Arc<Load>,
    /// Its first bytes, until the length is known.
    head: Vec<u8>,
    received: usize,
    taken: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Counted {
    pub(crate) fn new(inner: Incoming, load: &Arc<Load>) -> Self {
        let deadline = Box::pin(tokio::time::sleep(load.limits.request));
        Self { inner, load: Arc::clone(load), head: Vec::new(), received: 0, taken: 0, deadline }
    }

    /// Counts a received chunk.
    fn count(&mut self, chunk: &[u8]) -> Result<(), Status> {
        const HEAD: usize = 5;
        self.received += chunk.len();
        let missing = HEAD - self.head.len();
        self.head.extend(chunk.iter().take(missing));
        let announced = match self.head[..] {
            // tonic refuses a message over its limit before it allocates anything.
            [_, a, b, c, d] => (u32::from_be_bytes([a, b, c, d]) as usize).min(MESSAGE_LIMIT),
            _ => 0,
        };
        let large = announced.max(self.received).saturating_sub(SMALL);
        if let Some(more) = large.checked_sub(self.taken).filter(|more| *more > 0) {
            self.load.take(more)?;
            self.taken = large;
        }
        Ok(())
    }
}

impl Body for Counted {
    type Data = Bytes;
    type Error = StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StdError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) else {
            ready!(self.deadline.as_mut().poll(context));
            let limit = self.load.limits.request;
            let late = Status::deadline_exceeded(format!("the request did not arrive within {limit:?}"));
            return Poll::Ready(Some(Err(late.into())));
        };
        Poll::Ready(match frame {
            Some(Ok(frame)) => {
                let counted = frame.data_ref().map_or(Ok(()), |chunk| self.count(chunk));
                Some(counted.map(|()| frame).map_err(Into::into))
            }
            other => other.map(|end| end.map_err(Into::into)),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.load.put_back(self.taken);
        self.load.count(self.received);
    }
}
