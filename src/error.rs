//! The one error type: what was being done, to what, why it failed, and what to do about it.
//!
//! A message is lower case, has no full stop and never says "failed to": the chain says what failed. It is either
//! returned or logged, never both; `cli::report` prints it and picks the exit code from its [`Kind`].

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;

/// A result whose error is an [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The kind of a failure: decides exit codes and gRPC codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// The thing named does not exist.
    NotFound,
    /// The thing to be created exists already.
    Exists,
    /// The thing exists, but its state does not allow this.
    WrongState,
    /// The input is malformed or contradicts itself.
    Invalid,
    /// The kernel or a policy refuses.
    Denied,
    /// This kernel, host or build cannot do it.
    Unsupported,
    /// Another operation uses the thing.
    Busy,
    /// Stored or received data is damaged or has the wrong digest.
    Corrupt,
    /// A peer on the network cannot be reached.
    Unreachable,
    /// It took longer than allowed.
    TimedOut,
    /// The caller cancelled the operation.
    Cancelled,
    /// A system call failed for a reason outside the other kinds.
    System,
    /// An invariant of this program's own code is broken.
    Bug,
}

/// An error of this program: a [`Kind`], the doing-phrase, the cause and a hint.
pub struct Error(Box<Inner>);

struct Inner {
    kind: Kind,
    doing: Cow<'static, str>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    hint: Option<Hint>,
}

struct Hint {
    text: Cow<'static, str>,
    is_command: bool,
}

impl Error {
    /// An error with no cause below it: `doing` is the whole message.
    pub fn new(kind: Kind, doing: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner { kind, doing: doing.into(), source: None, hint: None }))
    }

    /// Shorthand for bad input, the most common kind.
    pub fn invalid(doing: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Invalid, doing)
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Adds a hint on what the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(Hint { text: hint.into(), is_command: false });
        self
    }

    /// Adds a hint that names a command for the container: wrong for a container of kubelet's, so that answers to kubelet
    /// leave it out.
    #[must_use]
    pub fn command_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.0.hint = Some(Hint { text: hint.into(), is_command: true });
        self
    }

    /// Wraps this error in the phrase for what was being done; the kind and the hint below are kept.
    #[must_use]
    pub fn doing(self, doing: impl Into<Cow<'static, str>>) -> Self {
        let kind = self.0.kind;
        Self::new(kind, doing).because(self)
    }

    /// The kind of the failure.
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// Whether its cause is a shortage of descriptors or memory, which says nothing about the thing that was
    /// accessed.
    pub fn is_shortage(&self) -> bool {
        let mut next: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = next {
            let code = error
                .downcast_ref::<std::io::Error>()
                .and_then(std::io::Error::raw_os_error)
                .or_else(|| error.downcast_ref::<rustix::io::Errno>().map(|errno| errno.raw_os_error()));
            if code.is_some_and(is_shortage) {
                return true;
            }
            next = error.source();
        }
        false
    }

    /// The first hint on the way from this error to its root cause.
    pub fn first_hint(&self) -> Option<&str> {
        self.find_hint(|_| true)
    }

    /// As [`Error::first_hint`], without those of [`Error::command_hint`].
    pub fn first_hint_for_kubelet(&self) -> Option<&str> {
        self.find_hint(|hint| !hint.is_command)
    }

    fn find_hint(&self, is_wanted: impl Fn(&Hint) -> bool) -> Option<&str> {
        let mut next: Option<&(dyn StdError + 'static)> = Some(self);
        while let Some(error) = next {
            let hint = error.downcast_ref::<Self>().and_then(|error| error.0.hint.as_ref());
            if let Some(hint) = hint.filter(|hint| is_wanted(hint)) {
                return Some(&hint.text);
            }
            next = error.source();
        }
        None
    }

    /// The whole chain on one line, outermost first, as it goes into a log record.
    pub fn chain(&self) -> String {
        let mut line = self.to_string();
        let mut next = self.source();
        while let Some(error) = next {
            line.push_str(": ");
            line.push_str(&error.to_string());
            next = error.source();
        }
        line
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.doing)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.0.kind, self.chain())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|e| e as &(dyn StdError + 'static))
    }
}

/// Errors of other crates that can be converted to an [`Error`] with a doing-phrase.
pub trait Cause: Into<Box<dyn StdError + Send + Sync>> {
    /// The kind that this cause maps to.
    fn kind(&self) -> Kind;
}

impl Cause for Error {
    fn kind(&self) -> Kind {
        self.0.kind
    }
}

impl Cause for std::io::Error {
    fn kind(&self) -> Kind {
        match self.raw_os_error() {
            Some(code) => kind_of_errno(code),
            None => match Self::kind(self) {
                std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::InvalidData => Kind::Corrupt,
                std::io::ErrorKind::NotFound => Kind::NotFound,
                std::io::ErrorKind::InvalidInput => Kind::Invalid,
                _ => Kind::System,
            },
        }
    }
}

impl Cause for nix::Error {
    fn kind(&self) -> Kind {
        kind_of_errno(*self as i32)
    }
}

impl Cause for rustix::io::Errno {
    fn kind(&self) -> Kind {
        kind_of_errno(self.raw_os_error())
    }
}

impl Cause for crate::sys::Error {
    fn kind(&self) -> Kind {
        kind_of_errno(self.errno.raw_os_error())
    }
}

impl Cause for serde_json::Error {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// The kind that an errno maps to; see errno(3).
pub fn kind_of_errno(code: i32) -> Kind {
    match code {
        libc::ENOENT | libc::ESRCH => Kind::NotFound,
        libc::EEXIST => Kind::Exists,
        libc::EPERM | libc::EACCES | libc::EROFS => Kind::Denied,
        libc::ENOSYS | libc::EOPNOTSUPP | libc::EPROTONOSUPPORT => Kind::Unsupported,
        libc::EBUSY | libc::ETXTBSY | libc::EWOULDBLOCK => Kind::Busy,
        libc::ETIMEDOUT => Kind::TimedOut,
        _ => Kind::System,
    }
}

/// Whether an errno means a shortage of descriptors or memory; see [`Error::is_shortage`].
pub fn is_shortage(code: i32) -> bool {
    matches!(code, libc::EMFILE | libc::ENFILE | libc::ENOMEM)
}

/// Adds the doing-phrase to a failing result: `.doing(|| format!("read {path}"))`.
pub trait Doing<T> {
    /// Wraps the error, if there is one, in the phrase for what was being done.
    fn doing<S: Into<Cow<'static, str>>>(self, phrase: impl FnOnce() -> S) -> Result<T>;
}

impl<T, E: Cause> Doing<T> for std::result::Result<T, E> {
    fn doing<S: Into<Cow<'static, str>>>(self, phrase: impl FnOnce() -> S) -> Result<T> {
        self.map_err(|cause| Error::new(cause.kind(), phrase()).because(cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_known_however_deep_it_lies() {
        let by = |errno: rustix::io::Errno| {
            Err::<(), _>(errno).doing(|| "open it").unwrap_err().doing("look at it")
        };
        assert!(by(rustix::io::Errno::MFILE).is_shortage() && by(rustix::io::Errno::NOMEM).is_shortage());
        assert!(!by(rustix::io::Errno::NOENT).is_shortage() && !Error::invalid("no cause").is_shortage());
        let io =
            Err::<(), _>(std::io::Error::from_raw_os_error(libc::ENFILE)).doing(|| "open it").unwrap_err();
        assert!(io.is_shortage());
    }

    #[test]
    fn a_chain_reads_from_the_doing_to_the_cause() {
        let error = Err::<(), _>(rustix::io::Errno::PERM)
            .doing(|| "mount proc on /proc")
            .map_err(|e| e.hint("run as root").doing("cannot start container web-1"))
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Denied);
        assert_eq!(
            error.chain(),
            "cannot start container web-1: mount proc on /proc: Operation not permitted (os error 1)"
        );
        assert_eq!(error.first_hint(), Some("run as root"));
    }

    #[test]
    fn kubelet_gets_no_hint_that_names_a_command() {
        let error = Error::new(Kind::NotFound, "no container").hint("look in the log");
        let error = error.doing("stop it").command_hint("coracle list");
        assert_eq!(error.first_hint(), Some("coracle list"));
        assert_eq!(error.first_hint_for_kubelet(), Some("look in the log"));
    }
}
