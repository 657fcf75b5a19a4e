//! `coracle delete`

use std::process::ExitCode;

use super::Context;
use crate::error::Result;
use crate::id::ContainerId;

/// Remove stopped containers
#[derive(Debug, clap::Args)]
pub(super) struct DeleteArgs {
    /// Kill them first if they run; a missing container is no error
    #[arg(short, long)]
    force: bool,
    /// Names of the containers
    #[arg(value_name = "ID", required = true)]
    ids: Vec<String>,
}

/// Runs `coracle delete`.
pub(super) fn run(context: &Context, args: &DeleteArgs) -> Result<ExitCode> {
    for id in &args.ids {
        let id = ContainerId::parse(id)?;
        crate::oci::delete::delete(&context.runtime(), &id, args.force)
            .map_err(|e| e.doing(format!("delete container {id}")))?;
    }
    Ok(ExitCode::SUCCESS)
}
