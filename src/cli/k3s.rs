//! `coracle k3s`: switches a K3s node to Coracle, and back.

use std::process::ExitCode;

use super::Context;
use super::switch::{self, SwitchVerb};
use crate::error::Result;
use crate::switch::Distribution;

/// Switch a K3s node to Coracle, and back
#[derive(Debug, clap::Args)]
pub(super) struct K3sArgs {
    #[command(subcommand)]
    verb: SwitchVerb,
}

/// Runs `coracle k3s`.
pub(super) fn run(context: &Context, args: &K3sArgs) -> Result<ExitCode> {
    switch::run(context, Distribution::K3s, &args.verb)
}
