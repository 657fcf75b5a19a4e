//! Starting a keeper.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{Doing, Error, Kind, Result};
use crate::launch::self_protect::own_path;

/// The exit code of a keeper that found another one serving the same directory: EX_TEMPFAIL of sysexits.h.
pub(in crate::keeper) const BUSY: u8 = 75;

/// The variable that names the keeper's program, when it does not lie beside this one.
const PROGRAM: &str = "CORACLE_KEEPER";

/// Whether the start failed because another was quicker; one that succeeded listens already.
pub(super) fn is_busy(started: &Result<()>) -> bool {
    started.as_ref().is_err_and(|error| error.kind() == Kind::Busy)
}

/// Starts a keeper; it listens when this returns.
pub(super) fn start(run: &Path) -> Result<()> {
    let program = keeper_program();
    let run = std::path::absolute(run).doing(|| format!("find {}", run.display()))?;
    let command = Command::new(&program).arg("--run").arg(run).stdin(Stdio::null()).output();
    let output = command.doing(|| format!("start {}", program.display())).map_err(|e| {
        e.hint(format!("coracle-keeper lies beside coracle, on the path, or where {PROGRAM} says"))
    })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let is_busy = output.status.code() == Some(BUSY.into());
    let kind = if is_busy { Kind::Busy } else { Kind::System };
    Err(Error::new(kind, format!("start {}", program.display())).because(Error::new(kind, said)))
}

/// The keeper's program: where `CORACLE_KEEPER` says, beside this one, or on the path.
pub fn keeper_program() -> PathBuf {
    let named = std::env::var_os(PROGRAM).filter(|name| !name.is_empty()).map(PathBuf::from);
    let beside = || own_path().map(|own| own.with_file_name("coracle-keeper")).filter(|path| path.exists());
    named.or_else(beside).unwrap_or_else(|| PathBuf::from("coracle-keeper"))
}
