//! Child processes with a deadline: their input and output as files in memory, and waiting for their end.

use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Doing, Result};

/// Creates an empty file in memory without a size limit, for the standard input of a child.
///
/// # Errors
/// memfd_create(2) fails.
pub fn memory_file() -> Result<File> {
    memfd_create(c"input", MemfdFlags::CLOEXEC).map(File::from).doing(|| "make a file in memory")
}

/// Creates a file in memory that takes at most `limit` bytes of a child's output; a write beyond that fails in the child.
/// Without the limit, a child that writes without end would use up all memory.
///
/// # Errors
/// memfd_create(2) or the seal fails.
pub fn output_file(limit: u64) -> Result<File> {
    let doing = || "make a file in memory";
    let file = memfd_create(c"output", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).map(File::from);
    let file = file.doing(doing)?;
    // The file has its full length from the beginning and is sealed against growing. The file offset, which the child
    // shares, says how much was written.
    file.set_len(limit).doing(doing)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL).doing(doing)?;
    Ok(file)
}

/// Reads what a child wrote to an [`output_file`].
///
/// # Errors
/// The file cannot be read.
pub fn read_output(file: &mut File) -> Result<Vec<u8>> {
    let doing = || "read its output";
    let length = file.stream_position().doing(doing)?;
    let mut bytes = Vec::new();
    file.rewind().doing(doing)?;
    file.take(length).read_to_end(&mut bytes).doing(doing)?;
    Ok(bytes)
}

/// Waits until a child ends, and no longer than `limit`. Returns none when the child still runs then.
///
/// # Errors
/// The child cannot be waited for.
pub fn wait(child: &mut Child, limit: Option<Duration>) -> Result<Option<ExitStatus>> {
    if let Some(limit) = limit {
        let deadline = Instant::now() + limit;
        let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty()).doing(|| "watch it")?;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Ok(_) => break,
                Err(e) => return Err(e).doing(|| "wait for it"),
            }
        }
    }
    child.wait().map(Some).doing(|| "wait for it")
}
