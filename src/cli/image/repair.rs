//! `coracle image repair`: fetches damaged layers again, and nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use super::report::ProgressReport;
use super::{RegistryArgs, chosen, finding_line, say};
use crate::cli::Context;
use crate::error::Result;
use crate::image::pull::PullOptions;
use crate::image::repair::{FromPath, FromRegistry, Origin, repair};
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct RepairArgs {
    /// Names or ids; all images when none is given
    #[arg(value_name = "NAME|ID")]
    images: Vec<String>,
    /// An OCI layout or an archive with the images, instead of the registries they came from; `-` reads an archive
    /// from standard input
    #[arg(long, value_name = "PATH|-")]
    from: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Runs the verb. Returns exit code 1 when something is still damaged.
pub(super) fn run(ctx: &Context, args: &RepairArgs) -> Result<ExitCode> {
    let store = Store::open(&ctx.store)?;
    let images = chosen(&store, &args.images)?;
    let origin: Box<dyn Origin> = match &args.from {
        Some(path) => Box::new(FromPath(path.clone())),
        None => {
            let registry = args.registry.options()?;
            Box::new(FromRegistry(PullOptions { registry, ..PullOptions::default() }))
        }
    };
    let repaired = repair(&store, &images, origin.as_ref(), &ProgressReport::new())?;
    if repaired.journal {
        say!("journal: written anew")?;
    }
    let is_left = |finding| repaired.left.contains(finding);
    for finding in repaired.found.iter().filter(|finding| !is_left(finding)) {
        say!("repaired: {}", finding_line(finding))?;
    }
    for finding in &repaired.left {
        say!("still damaged: {}", finding_line(finding))?;
    }
    if !repaired.journal && repaired.found.is_empty() {
        say!("nothing is damaged")?;
    }
    Ok(if repaired.left.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
