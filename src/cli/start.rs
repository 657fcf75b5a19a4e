//! `coracle start`

use std::process::ExitCode;

use super::Context;
use crate::error::Result;
use crate::id::ContainerId;

/// Run the program of a created container
#[derive(Debug, clap::Args)]
pub(super) struct StartArgs {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs `coracle start`.
pub(super) fn run(context: &Context, args: &StartArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.id)?;
    crate::oci::start::start(&context.runtime(), &id)
        .map_err(|e| e.doing(format!("start container {id}")))?;
    Ok(ExitCode::SUCCESS)
}
