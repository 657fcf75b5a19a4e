//! The one place where an error's kind becomes a gRPC code.

use tonic::{Code, Status};

use crate::error::{Error, Kind};

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        Self::new(code(error.kind), error.message)
    }
}

/// kubelet acts on three of these: `NotFound` of a status means gone, `DeadlineExceeded` of ExecSync means that the
/// probe timed out, `Unimplemented` means that the runtime lacks the feature. The others it only logs.
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
