//! `coracle rm`

use std::process::ExitCode;

use super::Context;
use crate::error::Result;
use crate::id::ContainerId;

/// Remove containers that were launched without --rm, with their writable layers
#[derive(Debug, clap::Args)]
pub(super) struct RmArgs {
    /// Kill them first if they run
    #[arg(short, long)]
    force: bool,
    /// Names of the containers
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Runs `coracle rm`.
pub(super) fn run(context: &Context, args: &RmArgs) -> Result<ExitCode> {
    for name in &args.names {
        let id = ContainerId::parse(name)?;
        super::launch::remove(context, &id, args.force)
            .map_err(|e| e.doing(format!("remove container {id}")))?;
    }
    Ok(ExitCode::SUCCESS)
}
