//! Converts results of the backend to gRPC responses.

use tonic::{Response, Status};

use crate::MESSAGE_LIMIT;
use crate::error::Result;
use crate::v1::ExecSyncResponse;

/// The response to a call, or the status that it fails with.
pub(crate) type RpcResult<T> = Result<Response<T>, Status>;

/// Converts the backend's result to a gRPC response.
pub(crate) fn respond<T>(result: Result<T>) -> RpcResult<T> {
    Ok(Response::new(result?))
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
}
