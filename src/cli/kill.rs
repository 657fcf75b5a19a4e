//! `coracle kill`

use std::process::ExitCode;

use super::Context;
use crate::error::Result;
use crate::id::ContainerId;
use crate::oci::kill::parse_signal;

/// Send a signal to a container
#[derive(Debug, clap::Args)]
pub(super) struct KillArgs {
    /// Send it to all processes of the container
    #[arg(short, long)]
    all: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
    /// Name or number, with or without SIG
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    signal: String,
}

/// Runs `coracle kill`.
pub(super) fn run(context: &Context, args: &KillArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.id)?;
    let signal = parse_signal(&args.signal)?;
    crate::oci::kill::kill(&context.runtime(), &id, signal, args.all)
        .map_err(|e| e.doing(format!("kill container {id}")))?;
    Ok(ExitCode::SUCCESS)
}
