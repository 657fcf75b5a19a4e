//! What a backend answers when it cannot do what was asked.

use std::fmt;

/// A result whose error is an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is; [`crate::status`] turns it into a gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The pod, container or image named does not exist.
    NotFound,
    /// Something else already has this name.
    Exists,
    /// It is there, but in a state that does not allow this.
    WrongState,
    /// The request is malformed or contradicts itself.
    Invalid,
    /// The kernel, a policy or a registry refuses.
    Denied,
    /// This kernel or host cannot do it.
    Unsupported,
    /// This runtime does not offer the call; clients take it as "not a feature of this runtime".
    Unimplemented,
    /// Somebody else is at it.
    Busy,
    /// What is stored, or was received, is damaged.
    Corrupt,
    /// A registry cannot be reached.
    Unreachable,
    /// It took longer than the request allowed.
    TimedOut,
    /// The caller went away.
    Cancelled,
    /// A system call failed for a reason outside the other kinds.
    System,
    /// A broken promise of this program's own code.
    Bug,
}

/// A failed call: its kind, and one line for the client's log. Cheap to copy, for a retry gets the first call's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What sort of failure it is.
    pub kind: Kind,
    /// What was being done and why it failed, lower case, on one line.
    pub message: String,
}

impl Error {
    /// An error of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    /// A malformed request.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::Invalid, message)
    }

    /// A pod, container or image that does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// The answer of a call that this runtime does not offer.
    pub fn unimplemented(call: &str) -> Self {
        Self::new(Kind::Unimplemented, format!("{call} is not offered by this runtime"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
