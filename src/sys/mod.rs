//! The only unsafe code: system calls for which no safe wrapper does.
//!
//! Which crate a call comes from, here: nix first, for what it has; rustix for the mount API, `openat2`, pidfds and what else
//! nix lacks; libc, and so `unsafe`, for what neither has, or where theirs allocates and the call has to be child-safe
//! (execve), or takes a descriptor by number that nobody owns. Errors are rustix's `Errno` throughout.
//!
//! Everything here is thin: one function per call, arguments as types, `OwnedFd` out and `BorrowedFd` in, `CLOEXEC`
//! always. Functions marked *child-safe* allocate nothing and call only the kernel, so they may run between clone and
//! execve. Everything else in the program is safe Rust.

pub mod bpf;
pub mod fd;
pub mod fork;
pub mod lease;
pub mod loopback;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod pidfd;
pub mod process;
pub mod seccomp;
pub mod signal;

use std::fmt;

use rustix::io::Errno;

/// nix's error as rustix's.
fn errno(error: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(error as i32)
}

/// A failed system call, printed like strace does: `openat2(7, "etc", ...): ENOENT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// The call with its arguments, as strace prints it.
    pub call: String,
    /// The errno it returned.
    pub errno: Errno,
}

impl Error {
    /// The error of `call`, written with its arguments.
    pub fn new(call: impl Into<String>, errno: Errno) -> Self {
        Self { call: call.into(), errno }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = nix::errno::Errno::from_raw(self.errno.raw_os_error());
        write!(f, "{}: {name:?} ({})", self.call, name.desc())
    }
}

impl std::error::Error for Error {}
