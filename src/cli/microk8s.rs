//! `coracle microk8s`: switches a MicroK8s node to Coracle, and back.

use std::process::ExitCode;

use super::Context;
use super::switch::{self, SwitchVerb};
use crate::error::Result;
use crate::switch::Distribution;

/// Switch a MicroK8s node to Coracle, and back
#[derive(Debug, clap::Args)]
pub(super) struct MicroK8sArgs {
    #[command(subcommand)]
    verb: SwitchVerb,
}

/// Runs `coracle microk8s`.
pub(super) fn run(context: &Context, args: &MicroK8sArgs) -> Result<ExitCode> {
    switch::run(context, Distribution::MicroK8s, &args.verb)
}
