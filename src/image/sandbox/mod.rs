//! Unpacks in a separate process, which parses untrusted image data and can only fill one directory.
//!
//! The child has no network, a mount namespace whose root is the layer's directory, no descriptors except the stream,
//! the record and the message, only the capabilities that owners and devices need, and a filter of system calls. An
//! exploit of a decoder or of the tar reader is then confined to that directory, which is deleted on any error. The
//! parent only reads, hashes and counts the compressed stream, so the two also use a second core.

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

/// Bytes passed on at once, and bytes in the pipe: the two sides need not take turns.
const BUFFER: usize = 64 << 10;
const PIPE_SIZE: usize = 256 << 10;

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
    let doing = || "start the unpacking process";
    let (data, to_child) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
    let (from_child, answer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).doing(doing)?;
    // This affects only the speed.
    let _ = rustix::pipe::fcntl_setpipe_size(&to_child, PIPE_SIZE);
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
        Ok(()) => receive(from_child, child),
        // Dropping the child kills and reaps it.
        Err(error) => return Err(error),
    };
    result.map(|mut applied| {
        applied.warnings.extend(cage.weakness());
        applied
    })
}

/// Unpacks; runs in the child.
fn unpack(data: &OwnedFd, index: &File, root: OwnedFd, limits: &Limits) -> Result<Applied> {
    let doing = || "unpack in a separate process";
    let stream = File::from(data.try_clone().doing(doing)?);
    let index = index.try_clone().doing(doing)?;
    layer::apply_recorded(stream, root.as_fd(), Some(index), limits, &mut |_| {})
}

/// Writes the stream to the pipe until it ends or the child closes its end.
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
            // The child has all it needs, or has failed; its message tells which.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            Err(error) => return Err(error).doing(|| "write the layer to the unpacking process"),
        }
    }
}

/// A read error; one of this crate that passed through [`io::Error`] keeps its kind and hint.
fn own(error: io::Error) -> Error {
    let kind = Cause::kind(&error);
    match error.downcast::<Error>() {
        Ok(error) => error.doing("read the stream"),
        Err(error) => Error::new(kind, "read the stream").because(error),
    }
}

fn receive(from_child: OwnedFd, child: Forked) -> Result<Applied> {
    let doing = || "read the result of the unpacking process";
    let mut text = Vec::new();
    File::from(from_child).take(answer::MAX_MESSAGE).read_to_end(&mut text).doing(doing)?;
    let ended = child.wait().doing(doing)?;
    match (answer::read(&text), ended) {
        (Some(result), _) => result,
        (None, Ended::Killed(signal)) => {
            let doing = format!("the unpacking process was killed by signal {signal}");
            Err(Error::new(Kind::System, doing).hint("check dmesg: the OOM killer may have killed it"))
        }
        (None, Ended::Exited(code)) => {
            let doing = format!("the unpacking process exited with code {code} without a result");
            Err(Error::new(Kind::Bug, doing))
        }
    }
}

#[cfg(test)]
mod tests;
