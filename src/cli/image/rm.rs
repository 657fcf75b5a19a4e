//! `coracle image rm`: remove names, and images with their last name.

use std::process::ExitCode;

use super::say;
use crate::cli::Context;
use crate::error::Result;
use crate::store::{Removed, Store};

#[derive(Debug, clap::Args)]
pub(super) struct RmArgs {
    /// Names, ids or the first digits of an id
    #[arg(required = true, value_name = "NAME|ID")]
    images: Vec<String>,
}

/// Runs the verb.
pub(super) fn run(ctx: &Context, args: &RmArgs) -> Result<ExitCode> {
    for gone in Store::open(&ctx.store)?.remove(&args.images)? {
        match gone {
            Removed::Name(name) => say!("untagged {name}")?,
            Removed::Image(id) => say!("removed {id}")?,
        }
    }
    Ok(ExitCode::SUCCESS)
}
