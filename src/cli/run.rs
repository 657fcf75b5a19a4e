//! `coracle run`

use std::process::ExitCode;

use super::Context;
use super::create::CommonArgs;
use crate::error::Result;
use crate::id::ContainerId;
use crate::oci::run;

/// Create a container from a bundle, start it, and stay with it
#[derive(Debug, clap::Args)]
pub(super) struct RunArgs {
    #[command(flatten)]
    common: CommonArgs,
    /// Leave once it runs
    #[arg(short, long)]
    detach: bool,
    /// Leave the stopped container for `delete`
    #[arg(long)]
    keep: bool,
    /// Ignored: orphans of a container are its first process's children
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
