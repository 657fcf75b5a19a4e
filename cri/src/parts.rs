//! Lists that are streamed in parts, because the whole list may not fit in a message.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::AbortHandle;
use tokio_stream::Stream;
use tonic::Status;

/// Items in one part of a list.
const PART: usize = 256;

/// A list sent in parts. A client that does not read the next part in time is cut off with `ResourceExhausted`, so that it
/// cannot make the server hold the list for ever.
#[derive(Debug)]
pub(crate) struct Parts<T> {
    rest: Arc<Mutex<Rest<T>>>,
    timer: AbortHandle,
}

/// The parts that were not sent yet.
#[derive(Debug)]
struct Rest<T> {
    parts: std::vec::IntoIter<T>,
    /// A part was sent since the timer has last looked.
    has_moved: bool,
    /// The status that ends the stream of a client that is too slow.
    late: Option<Status>,
}

/// A list in parts of [`PART`] items, each of which must be read within `limit`.
pub(crate) fn parts<T, R: Send + 'static>(
    mut items: Vec<T>,
    limit: Duration,
    part: impl Fn(Vec<T>) -> R,
) -> Parts<R> {
    let mut all = Vec::with_capacity(items.len().div_ceil(PART));
    while !items.is_empty() {
        let rest = items.split_off(items.len().min(PART));
        all.push(part(std::mem::replace(&mut items, rest)));
    }
    let rest = Rest { parts: all.into_iter(), has_moved: true, late: None };
    let rest = Arc::new(Mutex::new(rest));
    // HTTP/2 flow control stops the polling of a stream whose client does not read, so the stream cannot time out itself.
    let timer = tokio::spawn(time_out(Arc::clone(&rest), limit)).abort_handle();
    Parts { rest, timer }
}

/// Drops the rest of a list of which no part was sent for `limit`.
async fn time_out<T>(rest: Arc<Mutex<Rest<T>>>, limit: Duration) {
    loop {
        tokio::time::sleep(limit).await;
        let mut rest = lock(&rest);
        if !std::mem::take(&mut rest.has_moved) {
            rest.parts = Vec::new().into_iter();
            let late = format!("no part of the list was read for {limit:?}");
            rest.late = Some(Status::resource_exhausted(late));
            return;
        }
    }
}

/// No code that may panic runs under the lock, so a poisoned one guards an intact value.
fn lock<T>(rest: &Mutex<Rest<T>>) -> MutexGuard<'_, Rest<T>> {
    rest.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T> Stream for Parts<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut rest = lock(&self.rest);
        rest.has_moved = true;
        let late = rest.late.take().map(Err);
        Poll::Ready(late.or_else(|| rest.parts.next().map(Ok)))
    }
}

impl<T> Drop for Parts<T> {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio_stream::StreamExt;

    use super::*;

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    #[test]
    fn a_list_in_parts_is_the_list() {
        run(async {
            for length in [0, 1, PART, PART + 1, 3 * PART - 1] {
                let items: Vec<usize> = (0..length).collect();
                let mut stream = parts(items.clone(), Duration::from_secs(60), |part| part);
                let mut joined = Vec::new();
                while let Some(part) = stream.next().await {
                    joined.extend(part.unwrap());
                }
                assert_eq!(joined, items);
            }
        });
    }

    #[test]
    fn a_list_that_nobody_reads_is_dropped_and_ends_with_an_error() {
        run(async {
            let mut stream = parts(vec![(); 3 * PART], Duration::from_millis(50), |part| part);
            assert!(stream.next().await.unwrap().is_ok());
            while lock(&stream.rest).late.is_none() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            assert_eq!(lock(&stream.rest).parts.len(), 0);
            let late = stream.next().await.unwrap().unwrap_err();
            assert_eq!(late.code(), tonic::Code::ResourceExhausted);
            assert!(stream.next().await.is_none());
        });
    }
}
