//! Slow calls and their retries: a retry waits for the first call and gets its result, as in
//! golang.org/x/sync/singleflight.
//!
//! kubelet gives up on a call after some minutes and sends it again. Work is not started twice: calls with the same key and
//! request share it. A call with the same key and another request is not a retry; it waits until the other's work has ended,
//! and then starts its own.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::call::Call;
use crate::error::{Error, Kind, Result};
use crate::workers::{Workers, no_thread};

/// What happens to work when no caller waits for it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Abandoned {
    /// It continues: a retry will ask for the result.
    Finishes,
    /// It is cancelled.
    IsCancelled,
}

/// The calls of one RPC under way, by key.
pub(crate) struct SingleFlight<K, Q, A> {
    abandoned: Abandoned,
    workers: Arc<Workers>,
    table: Arc<Mutex<Table<K, Q, A>>>,
}

type Table<K, Q, A> = HashMap<K, InFlight<Q, A>>;

struct InFlight<Q, A> {
    request: Q,
    call: Call,
    waiting: usize,
    cancelled: bool,
    outcome: Outcome<A>,
}

/// `None` until the work is done.
type Outcome<A> = watch::Receiver<Option<Result<A>>>;

impl<K, Q, A> SingleFlight<K, Q, A>
where
    K: Clone + Eq + Hash + Send + 'static,
    Q: PartialEq + Send + 'static,
    A: Clone + Send + Sync + 'static,
{
    pub(crate) fn new(abandoned: Abandoned, workers: &Arc<Workers>) -> Self {
        Self { abandoned, workers: Arc::clone(workers), table: Arc::default() }
    }

    /// Joins the work under way for this key and request, or starts `work` on a thread for blocking work.
    pub(crate) async fn join(
        &self,
        key: K,
        request: Q,
        work: impl FnOnce(&Call) -> Result<A> + Send + 'static,
    ) -> Result<A> {
        let mut request = request;
        let (mut waiter, worker) = loop {
            match self.join_or_begin(&key, request) {
                Joined::Waits(waiter, worker) => break (waiter, worker),
                Joined::Occupied(mut other, refused) => {
                    // An error means that the other work has ended, too.
                    let _ = other.wait_for(Option::is_some).await;
                    request = refused;
                }
            }
        };
        if let Some(worker) = worker {
            // A dropped worker reports an error to all waiting callers: to this one, which returns its own error here,
            // and to retries, which may try again.
            self.workers.start(move || worker.run(work)).map_err(|error| no_thread(&error))?;
        }
        waiter.result().await
    }

    fn join_or_begin(&self, key: &K, request: Q) -> Joined<K, Q, A> {
        let mut table = lock(&self.table);
        match table.get_mut(key) {
            Some(call) if call.request == request && !call.cancelled => {
                call.waiting += 1;
                Joined::Waits(self.waiter(key, call), None)
            }
            Some(other) => Joined::Occupied(other.outcome.clone(), request),
            None => {
                let (sender, outcome) = watch::channel(None);
                let call = Call::default();
                let own = InFlight { request, call: call.clone(), waiting: 1, cancelled: false, outcome };
                let waiter = self.waiter(key, &own);
                let worker =
                    Worker { table: Arc::clone(&self.table), key: key.clone(), call, sender, result: None };
                table.insert(key.clone(), own);
                Joined::Waits(waiter, Some(worker))
            }
        }
    }

    fn waiter(&self, key: &K, call: &InFlight<Q, A>) -> Waiter<K, Q, A> {
        Waiter {
            abandoned: self.abandoned,
            table: Arc::clone(&self.table),
            key: key.clone(),
            outcome: call.outcome.clone(),
        }
    }
}

enum Joined<K: Eq + Hash, Q, A> {
    /// The caller waits for the work; if there is a worker, the caller is the first and must start it.
    Waits(Waiter<K, Q, A>, Option<Worker<K, Q, A>>),
    /// The work for another request, or cancelled work, must end first; returns the request.
    Occupied(Outcome<A>, Q),
}

/// One waiting caller. Dropped when its client disconnects.
struct Waiter<K: Eq + Hash, Q, A> {
    abandoned: Abandoned,
    table: Arc<Mutex<Table<K, Q, A>>>,
    key: K,
    outcome: Outcome<A>,
}

impl<K: Eq + Hash, Q, A: Clone> Waiter<K, Q, A> {
    async fn result(&mut self) -> Result<A> {
        match self.outcome.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(lost()),
        }
    }
}

impl<K: Eq + Hash, Q, A> Drop for Waiter<K, Q, A> {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        // Work that has ended was removed from the table, and other work may have its key by now.
        let mine = table.get_mut(&self.key).filter(|f| f.outcome.same_channel(&self.outcome));
        let Some(own) = mine else { return };
        own.waiting -= 1;
        if own.waiting == 0 && self.abandoned == Abandoned::IsCancelled {
            own.cancelled = true;
            let call = own.call.clone();
            drop(table);
            call.cancel();
        }
    }
}

/// Runs the work, and reports a result even if it panics.
struct Worker<K: Eq + Hash, Q, A> {
    table: Arc<Mutex<Table<K, Q, A>>>,
    key: K,
    call: Call,
    sender: watch::Sender<Option<Result<A>>>,
    result: Option<Result<A>>,
}

impl<K: Eq + Hash, Q, A> Worker<K, Q, A> {
    fn run(mut self, work: impl FnOnce(&Call) -> Result<A>) {
        self.result = Some(work(&self.call));
    }
}

impl<K: Eq + Hash, Q, A> Drop for Worker<K, Q, A> {
    fn drop(&mut self) {
        // Remove it from the table first, so that a call from now on starts new work.
        lock(&self.table).remove(&self.key);
        let result = self.result.take().unwrap_or_else(|| Err(lost()));
        self.sender.send_replace(Some(result));
    }
}

fn lost() -> Error {
    Error::new(Kind::Bug, "the work on this call ended without a result")
}

/// No code that may panic runs under the lock, so a poisoned one guards an intact value.
fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    type Numbers = Arc<SingleFlight<&'static str, u32, usize>>;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    /// Starts a call in the background; its work counts itself and then waits for the gate.
    fn start(
        calls: &Numbers,
        request: u32,
        count: &Arc<AtomicUsize>,
    ) -> (tokio::task::JoinHandle<Result<usize>>, mpsc::Sender<()>) {
        let (open, gate) = mpsc::channel();
        let (calls, count) = (Arc::clone(calls), Arc::clone(count));
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
            calls.join("key", request, work).await
        });
        (call, open)
    }

    async fn until(mut done: impl FnMut() -> bool) {
        while !done() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn waiting(calls: &Numbers) -> usize {
        lock(&calls.table).get("key").map_or(0, |f| f.waiting)
    }

    #[test]
    fn a_retry_waits_for_the_first_call_and_gets_its_result() {
        run(async {
            let calls: Numbers = Arc::new(SingleFlight::new(Abandoned::Finishes, &Workers::new(4)));
            let count = Arc::default();
            let (first, open) = start(&calls, 1, &count);
            until(|| count.load(Ordering::SeqCst) == 1).await;
            let (retry, _) = start(&calls, 1, &count);
            until(|| waiting(&calls) == 2).await;
            open.send(()).unwrap();
            assert_eq!((first.await.unwrap(), retry.await.unwrap()), (Ok(1), Ok(1)));
            assert!(lock(&calls.table).is_empty());
        });
    }

    #[test]
    fn a_retry_after_the_first_caller_left_still_gets_its_result() {
        run(async {
            let calls: Numbers = Arc::new(SingleFlight::new(Abandoned::Finishes, &Workers::new(4)));
            let count = Arc::default();
            let (first, open) = start(&calls, 1, &count);
            until(|| count.load(Ordering::SeqCst) == 1).await;
            first.abort();
            until(|| waiting(&calls) == 0).await;
            let (retry, _) = start(&calls, 1, &count);
            until(|| waiting(&calls) == 1).await;
            open.send(()).unwrap();
            assert_eq!(retry.await.unwrap(), Ok(1));
        });
    }

    #[test]
    fn another_request_of_the_same_key_waits_and_then_goes_its_own_way() {
        run(async {
            let calls: Numbers = Arc::new(SingleFlight::new(Abandoned::Finishes, &Workers::new(4)));
            let count = Arc::default();
            let (first, open_first) = start(&calls, 1, &count);
            until(|| count.load(Ordering::SeqCst) == 1).await;
            let (second, open_second) = start(&calls, 2, &count);
            open_second.send(()).unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(count.load(Ordering::SeqCst), 1);
            open_first.send(()).unwrap();
            assert_eq!((first.await.unwrap(), second.await.unwrap()), (Ok(1), Ok(2)));
        });
    }

    #[test]
    fn work_that_nobody_waits_for_is_cancelled_and_the_next_caller_starts_anew() {
        run(async {
            let calls: Numbers = Arc::new(SingleFlight::new(Abandoned::IsCancelled, &Workers::new(4)));
            let count = Arc::default();
            let (first, _open) = start(&calls, 1, &count);
            until(|| count.load(Ordering::SeqCst) == 1).await;
            first.abort();
            let (second, open) = start(&calls, 1, &count);
            open.send(()).unwrap();
            assert_eq!(second.await.unwrap(), Ok(2));
        });
    }

    #[test]
    fn work_that_panics_answers_with_an_error() {
        run(async {
            let calls: Numbers = Arc::new(SingleFlight::new(Abandoned::Finishes, &Workers::new(4)));
            let result = calls.join("key", 1, |_| std::panic::resume_unwind(Box::new(()))).await;
            assert_eq!(result.unwrap_err().kind, Kind::Bug);
            assert!(lock(&calls.table).is_empty());
        });
    }
}
