//! `coracle run`

use std::process::ExitCode;

use super::Context;
use super::create::CommonArgs;
use crate::error::Result;
use crate::id::ContainerId;
use crate::oci::run;

/// Create a container from a bundle, start it, and wait until it ends
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Return when the container runs
    #[arg(short, long)]
    detach: bool,
    /// Keep the stopped container for `delete`
    #[arg(long)]
    keep: bool,
    /// Ignored: a container's orphans become children of its first process
    #[arg(long)]
    no_subreaper: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs `coracle run`.
pub(super) fn run(context: &Context, args: &RunArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.id)?;
    let (spec, create) = args.common.load()?;
    let options = run::RunOptions { create, detach: args.detach, keep: args.keep };
    let code = run::run(&context.runtime(), &id, &spec, &options)
        .map_err(|e| e.doing(format!("run container {id}")))?;
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)))
}
