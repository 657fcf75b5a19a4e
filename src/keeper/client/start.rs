//! Starting a keeper.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_setfl};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::error::{Doing, Error, Kind, Result};
use crate::keeper::program::{NAME, VARIABLE, keeper_program};
use crate::launch::deadline::Deadline;

/// How long a keeper may take until it listens and goes on in the background: it takes over from another meanwhile.
const LIMIT: Duration = Duration::from_secs(60);

/// The exit code of a keeper that found another one serving the same directory: EX_TEMPFAIL of sysexits.h.
pub(in crate::keeper) const BUSY: u8 = 75;

/// Whether the start failed because another was quicker; one that succeeded listens already.
pub(super) fn is_busy(started: &Result<()>) -> bool {
    started.as_ref().is_err_and(|error| error.kind() == Kind::Busy)
}

/// Starts a keeper; it listens when this returns.
pub(super) fn start(run: &Path) -> Result<()> {
    let program = keeper_program();
    let run = std::path::absolute(run).doing(|| format!("find {}", run.display()))?;
    let mut command = Command::new(&program);
    command
        .arg0(NAME)
        .arg("--run")
        .arg(run)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let doing = || format!("start {}", program.display());
    let child = command.spawn().doing(doing).map_err(|e| {
        e.hint(format!("{VARIABLE} names the keeper's program; without it, coracle starts itself"))
    })?;
    let (status, reason) = end_of(child).map_err(|e| e.doing(doing()))?;
    if status.success() {
        return Ok(());
    }
    let kind = if status.code() == Some(BUSY.into()) { Kind::Busy } else { Kind::System };
    let reason = if reason.is_empty() { format!("it gave no reason: {status}") } else { reason };
    Err(Error::new(kind, doing()).because(Error::new(kind, reason)))
}

/// The exit status of a program that is to go on in the background, and what it wrote to standard error until then.
///
/// # Errors
/// `TimedOut` when it does not end: it is killed.
fn end_of(mut child: Child) -> Result<(ExitStatus, String)> {
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).doing(|| "open its process")?;
    let waited = Deadline::after(LIMIT).wait_readable(pidfd.as_fd());
    if waited.is_err() {
        let _ = child.kill();
    }
    let status = child.wait().doing(|| "wait for it")?;
    waited.map_err(|_| {
        Error::new(Kind::TimedOut, format!("it did not go into the background within {} s", LIMIT.as_secs()))
            .hint(format!("is the program in {VARIABLE} a keeper?"))
    })?;
    let mut text = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        // What runs on in the background may hold the other end.
        fcntl_setfl(&stderr, OFlags::NONBLOCK).doing(|| "read what it wrote")?;
        let _ = stderr.read_to_end(&mut text);
    }
    Ok((status, String::from_utf8_lossy(&text).trim().to_owned()))
}
