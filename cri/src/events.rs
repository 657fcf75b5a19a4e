//! GetContainerEvents: hands each event to every listener through a queue of its own.
//!
//! A listener that reads too slowly is cut off with `ResourceExhausted`, so that it neither delays the node nor makes it
//! hold ever more events. kubelet then lists everything and listens anew.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use prost::Message;
use tokio_stream::Stream;
use tonic::Status;

use crate::connections::Working;
use crate::v1::ContainerEventResponse;

/// The limits of what is queued for one listener: an event has the status of a pod and of all of its containers.
const QUEUED_EVENTS: usize = 1024;
const QUEUED_BYTES: usize = 4 << 20;

/// The limit of listeners at a time: kubelet is one, and crictl another.
const LISTENERS: usize = 16;

/// The listeners of GetContainerEvents. The backend owns it and publishes events; the server adds listeners.
#[derive(Debug, Default)]
pub struct EventHub(Mutex<Hub>);

#[derive(Debug, Default)]
struct Hub {
    queues: Vec<Arc<Queue>>,
    has_ended: bool,
}

impl EventHub {
    /// Whether anybody listens. Building an event is in vain if not.
    pub fn has_listeners(&self) -> bool {
        !self.lock().queues.is_empty()
    }

    /// Queues an event for every listener, in the order of the calls. Never blocks. Returns how many listeners were cut off
    /// because they have not read enough.
    pub fn publish(&self, event: &ContainerEventResponse) -> usize {
        let bytes = event.encoded_len();
        let mut hub = self.lock();
        let before = hub.queues.len();
        // A listener whose queue was full is not kept: it gets what ended it, and no more events.
        hub.queues.retain(|queue| queue.push(event, bytes));
        before - hub.queues.len()
    }

    /// Ends all streams, and refuses further listeners: the node stops.
    pub(crate) fn end(&self) {
        let mut hub = self.lock();
        hub.has_ended = true;
        hub.queues.drain(..).for_each(|queue| queue.end(stopping()));
    }

    /// A stream of all events from now on.
    ///
    /// # Errors
    /// `ResourceExhausted` when there are too many listeners, `Unavailable` when the node stops.
    pub(crate) fn listen(self: &Arc<Self>) -> Result<Events, Status> {
        let mut hub = self.lock();
        if hub.has_ended {
            return Err(stopping());
        }
        if hub.queues.len() >= LISTENERS {
            return Err(Status::resource_exhausted(format!("{LISTENERS} clients listen for events already")));
        }
        let queue = Arc::<Queue>::default();
        hub.queues.push(Arc::clone(&queue));
        Ok(Events { queue, hub: Arc::clone(self), call: None })
    }

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    fn lock(&self) -> MutexGuard<'_, Hub> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopping() -> Status {
    Status::unavailable("the runtime is being stopped; listen again when it is back")
}

/// The events of one listener. The listener is forgotten when this is dropped.
pub(crate) struct Events {
    queue: Arc<Queue>,
    hub: Arc<EventHub>,
    call: Option<Arc<Working>>,
}

impl Events {
    /// Keeps the connection from being taken for idle, and closed for a newer one, while the stream is open.
    pub(crate) fn holding(self, call: Option<Arc<Working>>) -> Self {
        let mut events = self;
        events.call = call;
        events
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.hub.lock().queues.retain(|queue| !Arc::ptr_eq(queue, &self.queue));
    }
}

impl Stream for Events {
    type Item = Result<ContainerEventResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.queue.lock().next(context)
    }
}

/// What was published and not yet read.
#[derive(Debug, Default)]
struct Queue(Mutex<Queued>);

#[derive(Debug, Default)]
struct Queued {
    events: VecDeque<(ContainerEventResponse, usize)>,
    bytes: usize,
    end: End,
    reader: Option<Waker>,
}

/// Whether a queue gets more events.
#[derive(Debug, Default)]
enum End {
    /// It does.
    #[default]
    Open,
    /// It does not; the reader gets this status.
    With(Status),
    /// The reader got the status.
    Told,
}

impl Queue {
    /// Whether the queue takes further events.
    fn push(&self, event: &ContainerEventResponse, bytes: usize) -> bool {
        let mut queued = self.lock();
        let fits = queued.events.len() < QUEUED_EVENTS && queued.bytes.saturating_add(bytes) <= QUEUED_BYTES;
        // An event that is larger than the limit on its own reaches a listener that has read everything.
        if !fits && !queued.events.is_empty() {
            let late = format!("more than {QUEUED_EVENTS} events or {QUEUED_BYTES} bytes wait to be read");
            // Without those that wait: after a gap the listener must list everything anyway.
            (queued.events, queued.bytes) = (VecDeque::new(), 0);
            queued.end(Status::resource_exhausted(format!("{late}; list everything and listen again")));
            return false;
        }
        queued.events.push_back((event.clone(), bytes));
        queued.bytes += bytes;
        queued.wake();
        true
    }

    fn end(&self, status: Status) {
        self.lock().end(status);
    }

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    fn lock(&self) -> MutexGuard<'_, Queued> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queued {
    /// The next event, then the status that ends the stream.
    fn next(&mut self, context: &Context<'_>) -> Poll<Option<Result<ContainerEventResponse, Status>>> {
        if let Some((event, bytes)) = self.events.pop_front() {
            self.bytes -= bytes;
            return Poll::Ready(Some(Ok(event)));
        }
        match std::mem::replace(&mut self.end, End::Told) {
            End::With(status) => Poll::Ready(Some(Err(status))),
            End::Told => Poll::Ready(None),
            End::Open => {
                self.end = End::Open;
                self.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn end(&mut self, status: Status) {
        self.end = End::With(status);
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    fn event(id: &str) -> ContainerEventResponse {
        ContainerEventResponse { container_id: id.to_owned(), ..Default::default() }
    }

    fn poll(events: &mut Events) -> Poll<Option<Result<ContainerEventResponse, Status>>> {
        Pin::new(events).poll_next(&mut Context::from_waker(Waker::noop()))
    }

    #[track_caller]
    fn next(events: &mut Events) -> Result<String, Code> {
        match poll(events) {
            Poll::Ready(Some(item)) => item.map(|event| event.container_id).map_err(|e| e.code()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn each_listener_gets_each_event_once_and_in_order() {
        let hub = Arc::new(EventHub::default());
        assert!(!hub.has_listeners());
        hub.publish(&event("nobody hears this"));
        let (mut one, mut two) = (hub.listen().unwrap(), hub.listen().unwrap());
        for id in ["a", "b", "c"] {
            assert_eq!(hub.publish(&event(id)), 0);
        }
        for listener in [&mut one, &mut two] {
            let got: Vec<_> = (0..3).map(|_| next(listener).unwrap()).collect();
            assert_eq!(got, ["a", "b", "c"]);
            assert!(poll(listener).is_pending());
        }
        drop(one);
        hub.publish(&event("d"));
        assert_eq!(next(&mut two).unwrap(), "d");
        drop(two);
        assert!(!hub.has_listeners());
    }

    #[test]
    fn a_slow_listener_is_cut_off_and_the_others_are_not() {
        let large = ContainerEventResponse { container_id: "x".repeat(QUEUED_BYTES / 3), ..event("") };
        for (event, count) in [(event("small"), QUEUED_EVENTS), (large, 2)] {
            let hub = Arc::new(EventHub::default());
            let (mut slow, mut quick) = (hub.listen().unwrap(), hub.listen().unwrap());
            for number in 0..=count {
                assert_eq!(hub.publish(&event), usize::from(number == count), "cut off at the last one");
                assert_eq!(next(&mut quick).unwrap(), event.container_id);
            }
            assert_eq!(next(&mut slow), Err(Code::ResourceExhausted));
            assert_eq!(slow.queue.lock().events.len(), 0, "it holds no more memory");
            assert!(matches!(poll(&mut slow), Poll::Ready(None)), "the stream has ended");
            hub.publish(&event);
            assert_eq!(next(&mut quick).unwrap(), event.container_id);
            assert_eq!(hub.lock().queues.len(), 1);
        }
    }

    #[test]
    fn an_event_beyond_the_limit_reaches_a_listener_that_keeps_up() {
        let hub = Arc::new(EventHub::default());
        let mut listener = hub.listen().unwrap();
        let huge = event(&"x".repeat(QUEUED_BYTES + 1));
        for _ in 0..3 {
            hub.publish(&huge);
            assert_eq!(next(&mut listener).unwrap().len(), QUEUED_BYTES + 1);
        }
    }

    #[test]
    fn too_many_listeners_are_refused_and_one_that_leaves_makes_room() {
        let hub = Arc::new(EventHub::default());
        let mut all: Vec<_> = (0..LISTENERS).map(|_| hub.listen().unwrap()).collect();
        assert_eq!(hub.listen().err().unwrap().code(), Code::ResourceExhausted);
        all.pop();
        hub.listen().unwrap();
    }

    #[test]
    fn a_stop_ends_every_stream_and_refuses_new_ones() {
        let hub = Arc::new(EventHub::default());
        let mut listener = hub.listen().unwrap();
        hub.publish(&event("a"));
        hub.end();
        assert_eq!(next(&mut listener).unwrap(), "a", "what happened before the stop is told");
        assert_eq!(next(&mut listener), Err(Code::Unavailable));
        assert_eq!(hub.listen().err().unwrap().code(), Code::Unavailable);
    }
}
