//! The one conversion from this crate's errors to those of `coracle-cri`. Backends return our errors through `?`.

use coracle_cri::{Error as CriError, Kind as CriKind};

use crate::error::{Error, Kind};

impl From<Error> for CriError {
    fn from(error: Error) -> Self {
        Self::new(kind_of(error.kind()), one_line(&error))
    }
}

/// The error chain and the hint on one line, for kubelet's event of the pod and for logs.
pub(crate) fn one_line(error: &Error) -> String {
    let hint = error.first_hint_for_kubelet().map(|hint| format!(" ({hint})")).unwrap_or_default();
    format!("{}{hint}", error.chain()).replace('\n', " ")
}

/// The same kind in `coracle-cri`.
fn kind_of(kind: Kind) -> CriKind {
    match kind {
        Kind::NotFound => CriKind::NotFound,
        Kind::Exists => CriKind::Exists,
        Kind::WrongState => CriKind::WrongState,
        Kind::Invalid => CriKind::Invalid,
        Kind::Denied => CriKind::Denied,
        Kind::Unsupported => CriKind::Unsupported,
        Kind::Busy => CriKind::Busy,
        Kind::Corrupt => CriKind::Corrupt,
        Kind::Unreachable => CriKind::Unreachable,
        Kind::TimedOut => CriKind::TimedOut,
        Kind::Cancelled => CriKind::Cancelled,
        Kind::System => CriKind::System,
        Kind::Bug => CriKind::Bug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KINDS: [Kind; 13] = [
        Kind::NotFound,
        Kind::Exists,
        Kind::WrongState,
        Kind::Invalid,
        Kind::Denied,
        Kind::Unsupported,
        Kind::Busy,
        Kind::Corrupt,
        Kind::Unreachable,
        Kind::TimedOut,
        Kind::Cancelled,
        Kind::System,
        Kind::Bug,
    ];

    #[test]
    fn each_kind_survives_the_trip_whatever_is_wrapped_around_it() {
        for kind in KINDS {
            let wrapped = Error::new(kind, "open it").hint("look again").doing("start a container");
            let error = CriError::from(wrapped);
            assert_eq!(format!("{:?}", error.kind), format!("{kind:?}"));
            assert_eq!(error.message, "start a container: open it (look again)");
        }
    }
}
