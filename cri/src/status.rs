//! The mapping from an error's kind to a gRPC code.

use tonic::{Code, Status};

use crate::error::{Error, Kind};

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(code(error.kind), error.message)
    }
}

/// kubelet acts on three of these: `NotFound` from a status call means gone, `DeadlineExceeded` from ExecSync means that a
/// probe timed out, `Unimplemented` means that the runtime lacks the feature. It only logs the others.
fn code(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NotFound,
        Kind::Exists => Code::AlreadyExists,
        Kind::WrongState | Kind::Unsupported => Code::FailedPrecondition,
        Kind::Invalid => Code::InvalidArgument,
        Kind::Denied => Code::PermissionDenied,
        Kind::Unimplemented => Code::Unimplemented,
        Kind::Busy => Code::Aborted,
        Kind::Corrupt => Code::DataLoss,
        Kind::Unreachable => Code::Unavailable,
        Kind::TimedOut => Code::DeadlineExceeded,
        Kind::Cancelled => Code::Cancelled,
        Kind::System => Code::Unknown,
        Kind::Bug => Code::Internal,
    }
}
