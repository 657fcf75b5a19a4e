//! `coracle resume`

use std::process::ExitCode;

use super::Context;
use crate::error::Result;
use crate::id::ContainerId;

/// Resume a paused container
#[derive(Debug, clap::Args)]
pub(super) struct ResumeArgs {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs `coracle resume`.
pub(super) fn run(context: &Context, args: &ResumeArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.id)?;
    crate::oci::freeze::resume(&context.runtime(), &id)
        .map_err(|e| e.doing(format!("resume container {id}")))?;
    Ok(ExitCode::SUCCESS)
}
