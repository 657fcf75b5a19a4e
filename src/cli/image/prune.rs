//! `coracle image prune`: removes unused images.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::process::ExitCode;

use super::{bytes, say};
use crate::cli::Context;
use crate::error::{Doing, Result};
use crate::store::{Removed, Store};

#[derive(Debug, clap::Args)]
pub(super) struct PruneArgs {
    /// Remove every image that no container uses, and not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Runs the verb.
pub(super) fn run(ctx: &Context, args: &PruneArgs) -> Result<ExitCode> {
    let store = Store::open(&ctx.store)?;
    if !args.force && std::io::stdin().is_terminal() && !asked(args.all)? {
        return Ok(ExitCode::FAILURE);
    }
    let sizes = |store: &Store| -> Result<u64> { Ok(store.usage()?.images.size) };
    let before = sizes(&store)?;
    let mut count: BTreeMap<bool, u64> = BTreeMap::new();
    for gone in store.prune(args.all)? {
        *count.entry(matches!(gone, Removed::Image(_))).or_default() += 1;
        match gone {
            Removed::Name(name) => say!("untagged {name}")?,
            Removed::Image(id) => say!("removed {id}")?,
        }
    }
    let images = count.get(&true).copied().unwrap_or(0);
    say!("removed {images} images, {} came free", bytes(before.saturating_sub(sizes(&store)?)))?;
    Ok(ExitCode::SUCCESS)
}

fn asked(all: bool) -> Result<bool> {
    let what = if all { "all images that no container uses" } else { "all images without a name" };
    crate::cli::report::print(&format!("Remove {what}? [y/N] "))?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).doing(|| "read the answer")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
