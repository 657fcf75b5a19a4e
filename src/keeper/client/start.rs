//! Starting a keeper.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Doing, Error, Kind, Result};
use crate::keeper::program::{NAME, VARIABLE, keeper_program};

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
    let command = Command::new(&program).arg0(NAME).arg("--run").arg(run).stdin(Stdio::null()).output();
    let output = command.doing(|| format!("start {}", program.display())).map_err(|e| {
        e.hint(format!("{VARIABLE} names the keeper's program; without it, coracle starts itself"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let is_busy = output.status.code() == Some(BUSY.into());
    let kind = if is_busy { Kind::Busy } else { Kind::System };
    Err(Error::new(kind, format!("start {}", program.display())).because(Error::new(kind, said)))
}
