//! `coracle image rm`: remove names, and images with their last name.

use std::process::ExitCode;

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
            Removed::Name(name) => println!("untagged {name}"),
            Removed::Image(id) => println!("removed {id}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}
