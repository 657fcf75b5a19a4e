//! The error type of backends.

use std::fmt;

/// A result whose error is an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of an error; [`crate::status`] maps it to a gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The pod, container or image named does not exist.
    NotFound,
    /// Another pod, container or image already has this name.
    Exists,
    /// The state of the pod or container does not allow the operation.
    WrongState,
    /// The request is malformed or contradictory.
    Invalid,
    /// The kernel, a policy or a registry refuses.
    Denied,
    /// This kernel or host cannot do it.
    Unsupported,
    /// This runtime does not implement the call.
    Unimplemented,
    /// Another operation is in the way.
    Busy,
    /// Stored or received data is damaged.
    Corrupt,
    /// A registry cannot be reached.
    Unreachable,
    /// The operation took longer than its limit.
    TimedOut,
    /// The caller no longer waits for the response.
    Cancelled,
    /// A system call failed for a reason outside the other kinds.
    System,
    /// A violated invariant of this program.
    Bug,
}

/// A failed call: its kind, and one line for the client's log. Cheap to clone, because retries get the first call's error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The kind.
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

    /// The error for a call that this runtime does not implement.
    pub fn unimplemented(call: &str) -> Self {
        Self::new(Kind::Unimplemented, format!("{call} is not implemented by this runtime"))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}
