//! Slow calls and their retries: a retry waits for the first call and gets its result.
//!
//! kubelet gives up on a call after some minutes and sends it again. Work that has begun is not begun twice: calls with
//! the same key share one flight. A call with the same key and another request is no retry; it waits for the flight
//! to end and then goes its own way.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::call::Call;
use crate::error::{Error, Kind, Result};
use crate::lanes::{Lane, Lanes};

/// What becomes of a flight that nobody waits for any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abandoned {
    /// It goes on: a retry will come and wants the result.
    Finishes,
    /// It is cancelled: the caller has changed its mind.
    IsCancelled,
}

/// The calls of one RPC that are being worked on, by what tells them apart.
pub(crate) struct Flights<K, Q, A> {
    lane: Lane,
    abandoned: Abandoned,
    table: Arc<Mutex<Table<K, Q, A>>>,
}

type Table<K, Q, A> = HashMap<K, Flight<Q, A>>;

struct Flight<Q, A> {
    request: Q,
    call: Call,
    waiting: usize,
    cancelled: bool,
    outcome: Outcome<A>,
}

/// `None` until the work is done.
type Outcome<A> = watch::Receiver<Option<Result<A>>>;

impl<K, Q, A> Flights<K, Q, A>
where
    K: Clone + Eq + Hash + Send + 'static,
    Q: PartialEq + Send + 'static,
    A: Clone + Send + Sync + 'static,
{
    pub(crate) fn new(lane: Lane, abandoned: Abandoned) -> Self {
        Self { lane, abandoned, table: Arc::default() }
    }

    /// Joins the flight of this key and request, or starts one whose `work` runs on a thread for blocking work.
    pub(crate) async fn join(
        &self,
        lanes: &Lanes,
        key: K,
        request: Q,
        work: impl FnOnce(&Call) -> Result<A> + Send + 'static,
    ) -> Result<A> {
        let mut request = request;
        let (mut seat, landing) = loop {
            match self.board(&key, request) {
                Boarding::Seat(seat, landing) => break (seat, landing),
                Boarding::Full(mut other, refused) => {
                    // An error means that the flight has ended, too.
                    let _ = other.wait_for(Option::is_some).await;
                    request = refused;
                }
            }
        };
        if let Some(landing) = landing {
            let (lanes, lane) = (lanes.clone(), self.lane);
            // On its own: it goes on when the one who began it leaves.
            tokio::spawn(async move { drop(lanes.run(lane, move || landing.land(work)).await) });
        }
        seat.result().await
    }

    fn board(&self, key: &K, request: Q) -> Boarding<K, Q, A> {
        let mut table = lock(&self.table);
        match table.get_mut(key) {
            Some(flight) if flight.request == request && !flight.cancelled => {
                flight.waiting += 1;
                Boarding::Seat(self.seat(key, flight), None)
            }
            Some(flight) => Boarding::Full(flight.outcome.clone(), request),
            None => {
                let (sender, outcome) = watch::channel(None);
                let call = Call::default();
                let flight = Flight { request, call: call.clone(), waiting: 1, cancelled: false, outcome };
                let seat = self.seat(key, &flight);
                let landing =
                    Landing { table: Arc::clone(&self.table), key: key.clone(), call, sender, result: None };
                table.insert(key.clone(), flight);
                Boarding::Seat(seat, Some(landing))
            }
        }
    }

    fn seat(&self, key: &K, flight: &Flight<Q, A>) -> Seat<K, Q, A> {
        Seat {
            abandoned: self.abandoned,
            table: Arc::clone(&self.table),
            key: key.clone(),
            outcome: flight.outcome.clone(),
        }
    }
}

enum Boarding<K: Eq + Hash, Q, A> {
    /// A place on a flight; with a landing, the caller is the first and has to start the work.
    Seat(Seat<K, Q, A>, Option<Landing<K, Q, A>>),
    /// A flight of another request, or a cancelled one, has to end first; here is the request back.
    Full(Outcome<A>, Q),
}

/// One caller waiting. Dropped when its client goes away.
struct Seat<K: Eq + Hash, Q, A> {
    abandoned: Abandoned,
    table: Arc<Mutex<Table<K, Q, A>>>,
    key: K,
    outcome: Outcome<A>,
}

impl<K: Eq + Hash, Q, A: Clone> Seat<K, Q, A> {
    async fn result(&mut self) -> Result<A> {
        match self.outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(lost()),
        }
    }
}

impl<K: Eq + Hash, Q, A> Drop for Seat<K, Q, A> {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        // A flight that has landed is out of the table, and another may have its key by now.
        let mine = table.get_mut(&self.key).filter(|f| f.outcome.same_channel(&self.outcome));
        let Some(flight) = mine else { return };
        flight.waiting -= 1;
        if flight.waiting == 0 && self.abandoned == Abandoned::IsCancelled {
            flight.cancelled = true;
            let call = flight.call.clone();
            drop(table);
            call.cancel();
        }
    }
}

/// The duty of the one who does the work: tell the result, even if the work panics.
struct Landing<K: Eq + Hash, Q, A> {
    table: Arc<Mutex<Table<K, Q, A>>>,
    key: K,
    call: Call,
    sender: watch::Sender<Option<Result<A>>>,
    result: Option<Result<A>>,
}

impl<K: Eq + Hash, Q, A> Landing<K, Q, A> {
    fn land(mut self, work: impl FnOnce(&Call) -> Result<A>) {
        self.result = Some(work(&self.call));
    }
}

impl<K: Eq + Hash, Q, A> Drop for Landing<K, Q, A> {
    fn drop(&mut self) {
        // Out of the table first: who comes now starts anew.
        lock(&self.table).remove(&self.key);
        let result = self.result.take().unwrap_or_else(|| Err(lost()));
        self.sender.send_replace(Some(result));
    }
}

fn lost() -> Error {
    Error::new(Kind::Bug, "the work on this call ended without a result")
}

/// No foreign code runs under the lock, so a poisoned one has a sound table behind it.
fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    type Numbers = Arc<Flights<&'static str, u32, usize>>;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    /// Starts a call in the background; its work counts itself and then waits for the gate.
    fn start(
        flights: &Numbers,
        request: u32,
        count: &Arc<AtomicUsize>,
    ) -> (tokio::task::JoinHandle<Result<usize>>, mpsc::Sender<()>) {
        let (open, gate) = mpsc::channel();
        let (flights, count) = (Arc::clone(flights), Arc::clone(count));
        let call = tokio::spawn(async move {
            let work = move |call: &Call| {
                let number = count.fetch_add(1, Ordering::SeqCst) + 1;
                while gate.recv_timeout(Duration::from_millis(5)).is_err() {
                    if call.is_cancelled() {
                        return Err(Error::new(Kind::Cancelled, "cancelled"));
                    }
                }
                Ok(number)
            };
            flights.join(&Lanes::new(8), "key", request, work).await
        });
        (call, open)
    }

    async fn until(mut done: impl FnMut() -> bool) {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn waiting(flights: &Numbers) -> usize {
        lock(&flights.table).get("key").map_or(0, |f| f.waiting)
    }

    #[test]
    fn a_retry_waits_for_the_first_call_and_gets_its_result() {
        run(async {
            let flights: Numbers = Arc::new(Flights::new(Lane::Work, Abandoned::Finishes));
            let count = Arc::default();
            let (first, open) = start(&flights, 1, &count);
            until(|| count.load(Ordering::SeqCst) == 1).await;
            let (retry, _) = start(&flights, 1, &count);
            until(|| waiting(&flights) == 2).await;
            open.send(()).unwrap();
            assert_eq!((first.await.unwrap(), retry.await.unwrap()), (Ok(1), Ok(1)));
            assert!(lock(&flights.table).is_empty());
        });
    }

    #[test]
    fn a_retry_after_the_first_caller_left_still_gets_its_result() {
        run(async {
            let flights: Numbers = Arc::new(Flights::new(Lane::Work, Abandoned::Finishes));
            let count = Arc::default();
            let (first, open) = start(&flights, 1, &count);
            until(|| count.load(Ordering::SeqCst) == 1).await;
            first.abort();
            until(|| waiting(&flights) == 0).await;
            let (retry, _) = start(&flights, 1, &count);
            until(|| waiting(&flights) == 1).await;
            open.send(()).unwrap();
            assert_eq!(retry.await.unwrap(), Ok(1));
        });
    }

    #[test]
    fn another_request_of_the_same_key_waits_and_then_goes_its_own_way() {
        run(async {
            let flights: Numbers = Arc::new(Flights::new(Lane::Work, Abandoned::Finishes));
            let count = Arc::default();
            let (first, open_first) = start(&flights, 1, &count);
            until(|| count.load(Ordering::SeqCst) == 1).await;
            let (second, open_second) = start(&flights, 2, &count);
            open_second.send(()).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(count.load(Ordering::SeqCst), 1);
            open_first.send(()).unwrap();
            assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(1), Ok(2)));
        });
    }

    #[test]
    fn a_flight_that_nobody_waits_for_is_cancelled_and_the_next_caller_starts_anew() {
        run(async {
            let flights: Numbers = Arc::new(Flights::new(Lane::Work, Abandoned::IsCancelled));
            let count = Arc::default();
            let (first, _open) = start(&flights, 1, &count);
            until(|| count.load(Ordering::SeqCst) == 1).await;
            first.abort();
            let (second, open) = start(&flights, 1, &count);
            open.send(()).unwrap();
            assert_eq!(second.await.unwrap(), Ok(2));
        });
    }

    #[test]
    fn work_that_panics_answers_with_an_error() {
        run(async {
            let flights: Numbers = Arc::new(Flights::new(Lane::Work, Abandoned::Finishes));
            let answer =
                flights.join(&Lanes::new(8), "key", 1, |_| std::panic::resume_unwind(Box::new(()))).await;
            assert_eq!(answer.unwrap_err().kind, Kind::Bug);
            assert!(lock(&flights.table).is_empty());
        });
    }
}
