//! Converts results of the backend to gRPC responses.

use std::vec;

use tokio_stream::Iter;
use tonic::{Response, Status};

use crate::MESSAGE_LIMIT;
use crate::error::Result;
use crate::v1::ExecSyncResponse;

/// The response to a call, or the status that it fails with.
pub(crate) type RpcResult<T> = Result<Response<T>, Status>;

/// A list sent in parts.
pub(crate) type Parts<T> = Iter<vec::IntoIter<Result<T, Status>>>;

/// Items in one part of a list. A client asks for parts because the whole list may not fit in a message.
const PART: usize = 256;

/// Converts the backend's result to a gRPC response.
pub(crate) fn respond<T>(result: Result<T>) -> RpcResult<T> {
    Ok(Response::new(result?))
}

/// A list in parts of [`PART`] items.
pub(crate) fn parts<T, R>(mut items: Vec<T>, part: impl Fn(Vec<T>) -> R) -> Parts<R> {
    let mut all = Vec::with_capacity(items.len().div_ceil(PART));
    while !items.is_empty() {
        let rest = items.split_off(items.len().min(PART));
        all.push(Ok(part(std::mem::replace(&mut items, rest))));
    }
    tokio_stream::iter(all)
}

/// Truncates outputs that do not fit in a message: stdout first, then stderr.
pub(crate) fn truncated(mut output: ExecSyncResponse) -> ExecSyncResponse {
    // The protobuf tags and lengths of the two fields.
    const FRAMING: usize = 64;
    let room = MESSAGE_LIMIT - FRAMING;
    output.stdout.truncate(room.saturating_sub(output.stderr.len().min(room / 2)));
    output.stderr.truncate(room - output.stdout.len());
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_cut_to_what_a_message_holds() {
        let output = |stdout, stderr| ExecSyncResponse {
            stdout: vec![b'o'; stdout],
            stderr: vec![b'e'; stderr],
            exit_code: 3,
        };
        let sizes = |o: &ExecSyncResponse| (o.stdout.len(), o.stderr.len());
        assert_eq!(sizes(&truncated(output(10, 20))), (10, 20));
        for (stdout, stderr) in [(16 << 20, 16 << 20), (16 << 20, 0), (0, 16 << 20), (9 << 20, 12 << 20)] {
            let cut = truncated(output(stdout, stderr));
            assert!(prost::Message::encoded_len(&cut) <= MESSAGE_LIMIT, "{:?}", sizes(&cut));
            assert!(cut.stdout.len() >= stdout.min(MESSAGE_LIMIT / 2 - 64));
            assert!(cut.stderr.len() >= stderr.min(MESSAGE_LIMIT / 2 - 64));
        }
    }

    #[test]
    fn a_list_in_parts_is_the_list() {
        for length in [0, 1, PART, PART + 1, 3 * PART - 1] {
            let items: Vec<usize> = (0..length).collect();
            let mut joined = Vec::new();
            let mut stream = std::pin::pin!(parts(items.clone(), |part| part));
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            use tokio_stream::Stream;
            while let std::task::Poll::Ready(Some(part)) = stream.as_mut().poll_next(&mut context) {
                joined.extend(part.unwrap());
            }
            assert_eq!(joined, items);
        }
    }
}
