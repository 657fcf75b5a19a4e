//! `coracle rm`

use std::process::ExitCode;

use super::launch::Removal;
use super::{Context, report};
use crate::error::Result;
use crate::id::ContainerId;
use crate::keeper::ENDED_PROCESS;

/// Remove containers that were launched without --rm, with their writable layers
#[derive(Debug, clap::Args)]
pub(super) struct RmArgs {
    /// Kill them first if they run
    #[arg(short, long)]
    force: bool,
    /// Remove only the container whose first process has just ended, as the keeper tells: no other of that name
    #[arg(long, hide = true, conflicts_with = "force")]
    ended: bool,
    /// Names of the containers
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
}

/// Runs `coracle rm`.
pub(super) fn run(context: &Context, args: &RmArgs) -> Result<ExitCode> {
    let which = match (args.force, args.ended) {
        (true, _) => Removal::Forced,
        (false, true) => Removal::OfEnded(std::env::var(ENDED_PROCESS).unwrap_or_default()),
        (false, false) => Removal::OfStopped,
    };
    Ok(report::each(&args.names, |name| {
        let id = ContainerId::parse(name)?;
        super::launch::remove(context, &id, &which).map_err(|e| e.doing(format!("remove container {id}")))
    }))
}
