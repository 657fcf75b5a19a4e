//! Our errors in the CRI's terms.

use coracle_cri::{Error as Answer, Kind as Code};

use crate::error::{Error, Kind};

impl From<Error> for Answer {
    fn from(error: Error) -> Self {
        Self::new(code(error.kind()), one_line(&error))
    }
}

/// The whole chain and the hint: kubelet shows it as the pod's event, and logs have it.
pub(super) fn one_line(error: &Error) -> String {
    let hint = error.first_hint().map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{}{hint}", error.chain()).replace('\n', " ")
}

fn code(kind: Kind) -> Code {
    match kind {
        Kind::NotFound => Code::NotFound,
        Kind::Exists => Code::Exists,
        Kind::WrongState => Code::WrongState,
        Kind::Invalid => Code::Invalid,
        Kind::Denied => Code::Denied,
        Kind::Unsupported => Code::Unsupported,
        Kind::Busy => Code::Busy,
        Kind::Corrupt => Code::Corrupt,
        Kind::Unreachable => Code::Unreachable,
        Kind::TimedOut => Code::TimedOut,
        Kind::Cancelled => Code::Cancelled,
        Kind::System => Code::System,
        Kind::Bug => Code::Bug,
    }
}
