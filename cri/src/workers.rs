//! A thread pool for blocking work: it grows on demand up to a limit, and idle threads end after a while.
//!
//! tokio has such a pool, too, but it panics when the kernel refuses a thread (pids.max, RLIMIT_NPROC, no memory), and a
//! panic ends the daemon. Here, a call that gets no thread fails, and the next one tries again.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::error::{Error, Kind, Result};

/// How long an idle thread waits for work before it ends.
const KEEP_THREAD: Duration = Duration::from_secs(5);

type Job = Box<dyn FnOnce() + Send>;

/// The pool.
pub(crate) struct Workers {
    /// The limit of threads, and so of concurrent calls.
    most: usize,
    /// The stack size of each thread, in bytes.
    stack: usize,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Workers {
    pub(crate) fn new(most: usize) -> Arc<Self> {
        Self::with_stack(most, 2 << 20)
    }

    fn with_stack(most: usize, stack: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), stack, state: Mutex::default(), wake: Condvar::new() })
    }

    /// Runs `work` on a thread and waits for its result. If the future is dropped before a thread was free, the work is not
    /// run; work that has started always runs to its end.
    ///
    /// # Errors
    /// Those of `work`; `System` when no thread is free and none can be created; `Bug` when `work` panics.
    pub(crate) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (sender, receiver) = oneshot::channel();
        let work = move || {
            if !sender.is_closed() {
                drop(sender.send(work()));
            }
        };
        self.start(work).map_err(|error| no_thread(&error))?;
        let lost = || Err(Error::new(Kind::Bug, "the work on this call ended without a result"));
        receiver.await.unwrap_or_else(|_| lost())
    }

    /// Queues `work` for the next free thread, and creates a thread if allowed.
    ///
    /// # Errors
    /// A thread cannot be created and there is none; `work` is dropped then.
    pub(crate) fn start(self: &Arc<Self>, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.lock();
        if state.idle <= state.queue.len() && state.threads < self.most {
            match self.add_thread() {
                Ok(()) => state.threads += 1,
                // The existing threads will run it later.
                Err(_) if state.threads > 0 => {}
                Err(error) => return Err(error),
            }
        }
        state.queue.push_back(Box::new(work));
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    fn add_thread(self: &Arc<Self>) -> io::Result<()> {
        let workers = Arc::clone(self);
        let thread = std::thread::Builder::new().name("call".to_owned()).stack_size(self.stack);
        thread.spawn(move || Thread(workers).work()).map(drop)
    }

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error of a call for which no thread can be created.
pub(crate) fn no_thread(error: &io::Error) -> Error {
    Error::new(Kind::System, format!("start a thread for the call: {error}; try again"))
}

/// A thread of the pool. Dropped when the thread ends, also by a panic of the work.
struct Thread(Arc<Workers>);

impl Thread {
    fn work(&self) {
        while let Some(job) = self.next() {
            job();
        }
    }

    /// The next work; `None` after a while without any.
    fn next(&self) -> Option<Job> {
        let mut state = self.0.lock();
        if let Some(job) = state.queue.pop_front() {
            return Some(job);
        }
        state.idle += 1;
        let waited = self.0.wake.wait_timeout_while(state, KEEP_THREAD, |state| state.queue.is_empty());
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.idle -= 1;
        state.queue.pop_front()
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.threads -= 1;
        // Work queued since the last check would otherwise wait for a thread that may never come.
        if !state.queue.is_empty() && state.threads < self.0.most && self.0.add_thread().is_ok() {
            state.threads += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn run<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    #[test]
    fn work_waits_for_a_thread_and_threads_are_used_again() {
        let workers = Workers::new(2);
        let (sender, receiver) = mpsc::channel();
        for number in 0..50 {
            let sender = sender.clone();
            workers.start(move || sender.send((number, std::thread::current().id())).unwrap()).unwrap();
        }
        drop(sender);
        let (numbers, threads): (Vec<_>, std::collections::HashSet<_>) = receiver.iter().unzip();
        assert_eq!(numbers.len(), 50);
        assert!(threads.len() <= 2, "{threads:?}");
        assert_eq!(run(workers.run(|| Ok(7))), Ok(7));
    }

    #[test]
    fn work_that_panics_is_an_error_and_takes_no_thread_with_it() {
        let workers = Workers::new(1);
        for _ in 0..3 {
            let result = run(workers.run::<()>(|| std::panic::resume_unwind(Box::new(()))));
            assert_eq!(result.unwrap_err().kind, Kind::Bug);
        }
        assert_eq!(run(workers.run(|| Ok(7))), Ok(7));
    }

    /// No machine has memory for such a stack, so the kernel refuses the thread as it does at a limit.
    #[test]
    fn a_thread_that_cannot_be_started_is_an_error_and_no_panic() {
        let workers = Workers::with_stack(4, 1 << 60);
        let result = run(workers.run(|| Ok(7)));
        let error = result.unwrap_err();
        assert!(error.kind == Kind::System && error.message.contains("start a thread"), "{error:?}");
        assert!(workers.lock().queue.is_empty(), "nothing waits for a thread that will not come");
    }
}
