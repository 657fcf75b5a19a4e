//! `coracle man`: writes the manual pages, for packages.

#[cfg(feature = "node")]
mod node;

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Context, full};
use crate::error::{Doing, Result};

/// Write the manual pages to a directory
#[derive(Debug, clap::Args)]
pub(super) struct ManArgs {
    /// An existing directory
    directory: PathBuf,
}

/// Runs `coracle man`.
pub(super) fn run(_context: &Context, args: &ManArgs) -> Result<ExitCode> {
    let doing = || format!("write the manual to {}", args.directory.display());
    // Only the first line of the version: more would break the pages' footers.
    let command = full().version(env!("CARGO_PKG_VERSION"));
    clap_mangen::generate_to(command, &args.directory).doing(doing)?;
    #[cfg(feature = "node")]
    node::pages(&args.directory).doing(doing)?;
    Ok(ExitCode::SUCCESS)
}
