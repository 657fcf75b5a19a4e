//! Unpacking in a process of its own: what an image holds is parsed where it can do nothing but fill one directory.
//!
//! The child has no network, a mount namespace whose root is the layer's directory, no descriptor but the stream, the
//! record and the answer, the few capabilities that owners and devices take, and a filter of system calls. A flaw in a
//! decoder or in the tar reader then ends in that directory, which is deleted when anything is wrong. The parent only
//! reads, hashes and counts the compressed stream, so the two share the work of a second core as well.

mod answer;
mod cage;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::pipe::PipeFlags;

use super::layer::{self, Applied, Limits};
use crate::error::{Cause, Doing, Error, Kind, Result};
use crate::store::Staged;
use crate::sys::fork::{Ended, Forked, fork};

/// Bytes handed over at once, and bytes under way: the two sides need not take turns.
const BUFFER: usize = 64 << 10;
const UNDER_WAY: usize = 256 << 10;

/// Unpacks `stream` into `staged`, as [`layer::apply_recorded`] does, in a child. `watch` is called after every piece
/// and may stop the work.
///
/// # Errors
/// Those of [`layer::apply`]; those of reading `stream`; `System` when the child dies.
pub(super) fn apply(
    stream: &mut dyn Read,
    staged: &Staged,
    limits: &Limits,
    watch: &mut dyn FnMut(u64) -> Result<()>,
) -> Result<Applied> {
    let doing = || "start the process that unpacks";
    let (data, to_child) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
    let (from_child, answer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
    // Only speed depends on it.
    let _ = rustix::pipe::fcntl_setpipe_size(&to_child, UNDER_WAY);
    let index = staged.index()?;
    let cage = cage::Cage::prepare(staged.root().as_fd())?;
    let keep = [data.as_raw_fd(), answer.as_raw_fd(), index.as_raw_fd()];
    let child = fork(|| {
        let result = cage.enter(keep).and_then(|root| unpack(&data, &index, root, limits));
        i32::from(answer::send(result, &answer).is_err())
    })
    .doing(doing)?;
    drop((data, answer, index));
    let fed = feed(stream, to_child, watch);
    let result = match fed {
        Ok(()) => hear(from_child, child),
        // The child is killed and reaped as it is dropped.
        Err(error) => return Err(error),
    };
    result.map(|mut applied| {
        applied.warnings.extend(cage.weakness());
        applied
    })
}

/// In the child.
fn unpack(data: &OwnedFd, index: &File, root: OwnedFd, limits: &Limits) -> Result<Applied> {
    let doing = || "unpack in a process of its own";
    let stream = File::from(data.try_clone().doing(doing)?);
    let index = index.try_clone().doing(doing)?;
    layer::apply_recorded(stream, root.as_fd(), Some(index), limits, &mut |_| {})
}

/// Hands the stream over until it ends or the child wants no more of it.
fn feed(stream: &mut dyn Read, pipe: OwnedFd, watch: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
    let mut pipe = File::from(pipe);
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(own(error)),
        };
        match pipe.write_all(&buffer[..count]) {
            Ok(()) => watch(count as u64)?,
            // It has all it needs, or has failed: its answer says which.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error).doing(|| "hand the layer to the process that unpacks it"),
        }
    }
}

/// A read error; one of ours that had to pass through [`io::Error`] keeps its kind and hint.
fn own(error: io::Error) -> Error {
    let kind = Cause::kind(&error);
    match error.downcast::<Error>() {
        Ok(error) => error.doing("read the stream"),
        Err(error) => Error::new(kind, "read the stream").because(error),
    }
}

fn hear(from_child: OwnedFd, child: Forked) -> Result<Applied> {
    let doing = || "hear from the process that unpacks";
    let mut text = Vec::new();
    File::from(from_child).take(answer::MOST).read_to_end(&mut text).doing(doing)?;
    let ended = child.wait().doing(doing)?;
    match (answer::read(&text), ended) {
        (Some(result), _) => result,
        (None, Ended::Killed(signal)) => {
            let doing = format!("the process that unpacks the layer was killed by signal {signal}");
            Err(Error::new(Kind::System, doing).hint("if memory is short, dmesg says so"))
        }
        (None, Ended::Exited(code)) => {
            let doing = format!("the process that unpacks the layer ended with code {code} and no answer");
            Err(Error::new(Kind::Bug, doing))
        }
    }
}

#[cfg(test)]
mod tests;
