//! `coracle image gc`: removes what dead processes and removed images left behind, and the layers that `image repair`
//! could not account for.

use std::process::ExitCode;

use serde_json::json;

use super::{print_json, say};
use crate::cli::Context;
use crate::error::Result;
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct GcArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub(super) fn run(ctx: &Context, args: &GcArgs) -> Result<ExitCode> {
    let cleared = Store::open_as_it_is(&ctx.store)?.gc()?;
    if args.json {
        print_json(&json!(cleared))?;
    } else {
        let (transactions, layers, blobs) = (cleared.transactions, cleared.layers, cleared.blobs);
        say!("cleared {transactions} dead transactions, {layers} layers, {blobs} blobs")?;
    }
    Ok(ExitCode::SUCCESS)
}
