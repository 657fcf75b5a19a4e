//! Errors from failed steps: the step, the operation, its errno, and a hint for the common ones.

use std::fmt;

use rustix::io::Errno;

use super::plan::Plan;
use super::steps::{Source, Step};
use super::wire::{Failure, Op};
use crate::error::Error;
use crate::sys;

/// The cause of an error in which only executing the container's program failed: everything before had been set up.
#[derive(Debug)]
pub struct NotExecuted(sys::Error);

impl fmt::Display for NotExecuted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl std::error::Error for NotExecuted {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.0)
    }
}

/// The name of the operation, with the filesystem parameter it failed at.
fn call(step: Option<&Step>, failure: Failure) -> String {
    let parameter = match (step, failure.op) {
        (Some(Step::Mount(mount)), Op::FsConfig | Op::FsCreate) => match &mount.source {
            Source::Filesystem { parameters, .. } => parameters
                .get(usize::try_from(failure.detail).unwrap_or(usize::MAX))
                .filter(|_| failure.op == Op::FsConfig),
            _ => None,
        },
        _ => None,
    };
    match parameter {
        Some((key, Some(value))) => {
            format!("{}({}={})", failure.op, key.to_string_lossy(), value.to_string_lossy())
        }
        Some((key, None)) => format!("{}({})", failure.op, key.to_string_lossy()),
        None => failure.op.to_string(),
    }
}

/// Turns a failure report into an error: the step, the operation, its errno, and a hint for the common ones.
pub(super) fn explain(plan: &Plan, step: Option<&Step>, failure: Failure) -> Error {
    let cause = sys::Error::new(call(step, failure), failure.errno);
    let kind = crate::error::Cause::kind(&cause);
    let program =
        plan.program.argv.strings().first().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
    let doing = match step {
        Some(Step::FindProgram | Step::Execute) => format!("execute {program:?}"),
        Some(step) => step.to_string(),
        None => "set up the container".to_owned(),
    };
    let error = match step {
        Some(Step::FindProgram | Step::Execute) => Error::new(kind, doing).because(NotExecuted(cause)),
        Some(_) | None => Error::new(kind, doing).because(cause),
    };
    match (failure.op, failure.errno) {
        (Op::Access | Op::Execve, Errno::NOENT) => {
            error.hint("executable file not found: check process.args and PATH in process.env")
        }
        (Op::Access | Op::Execve, Errno::ACCESS) => error.hint("the file is not executable for this user"),
        (Op::Execve, Errno::NOEXEC) => {
            error.hint("exec format error: is the program for this CPU, or a script without #!?")
        }
        (Op::Chdir, Errno::NOENT) => error.hint("the working directory does not exist inside the container"),
        (Op::FsOpen, Errno::NODEV) => error.hint("this kernel does not know the filesystem type"),
        (Op::FsConfig | Op::FsCreate, Errno::INVAL) => {
            error.hint("the filesystem refuses one of its options")
        }
        (Op::SetAttr, Errno::NOSYS) => error.hint("recursive mount attributes need Linux 5.12"),
        (Op::Rlimit, Errno::PERM) => error.hint("raising a hard limit needs CAP_SYS_RESOURCE"),
        (Op::OpenTree, Errno::NOENT) => error.hint("the source of the mount does not exist on the host"),
        _ => error,
    }
}
