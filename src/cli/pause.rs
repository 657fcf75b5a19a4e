//! `coracle pause`

use std::process::ExitCode;

use super::Context;
use crate::error::Result;
use crate::id::ContainerId;

/// Pause a container: freeze all its processes
#[derive(Debug, clap::Args)]
pub(super) struct PauseArgs {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs `coracle pause`.
pub(super) fn run(context: &Context, args: &PauseArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.id)?;
    crate::oci::freeze::pause(&context.runtime(), &id)
        .map_err(|e| e.doing(format!("pause container {id}")))?;
    Ok(ExitCode::SUCCESS)
}
