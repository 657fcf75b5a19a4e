//! `coracle state`

use std::process::ExitCode;

use super::{Context, report};
use crate::error::{Doing, Result};
use crate::id::ContainerId;

/// Print the state of a container as JSON
#[derive(Debug, clap::Args)]
pub(super) struct StateArgs {
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs `coracle state`.
pub(super) fn run(context: &Context, args: &StateArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.id)?;
    let state = crate::oci::state::state(&context.runtime(), &id)?;
    let text = serde_json::to_string_pretty(&state).doing(|| "write the state")?;
    report::print(&format!("{text}\n"))?;
    Ok(ExitCode::SUCCESS)
}
