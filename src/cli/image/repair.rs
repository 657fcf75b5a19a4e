//! `coracle image repair`: fetches damaged layers again, and nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use super::report::ProgressReport;
use super::{RegistryArgs, chosen, finding_line, say};
use crate::cli::Context;
use crate::error::Result;
use crate::image::pull::PullOptions;
use crate::image::repair::{FromPath, FromRegistry, Origin, repair};
use crate::store::{Rewritten, Store};

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
    let (store, rewritten) = Store::open_to_repair(&ctx.store)?;
    if let Some(rewritten) = &rewritten {
        tell(&store, rewritten)?;
    }
    let images = chosen(&store, &args.images)?;
    let origin: Box<dyn Origin> = match &args.from {
        Some(path) => Box::new(FromPath(path.clone())),
        None => {
            let registry = args.registry.options()?;
            Box::new(FromRegistry(PullOptions { registry, ..PullOptions::default() }))
        }
    };
    let repaired = repair(&store, &images, origin.as_ref(), &ProgressReport::new())?;
    let is_left = |finding| repaired.left.contains(finding);
    for finding in repaired.found.iter().filter(|finding| !is_left(finding)) {
        say!("repaired: {}", finding_line(finding))?;
    }
    for finding in &repaired.left {
        say!("still damaged: {}", finding_line(finding))?;
    }
    if rewritten.is_none() && repaired.found.is_empty() {
        say!("nothing is damaged")?;
    }
    let lost_layers = rewritten.map_or(0, |rewritten| rewritten.lost_layers);
    Ok(if repaired.left.is_empty() && lost_layers == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints what was rewritten in the journal.
fn tell(store: &Store, rewritten: &Rewritten) -> Result<()> {
    say!("journal: written anew")?;
    for manifest in &rewritten.rebuilt {
        if let Some(image) = store.image(manifest)? {
            say!("rebuilt: image {}; its names are lost, give it one with `coracle image tag`", image.id)?;
        }
    }
    if rewritten.lost_layers > 0 {
        let count = rewritten.lost_layers;
        say!(
            "not rebuilt: {count} layers of unknown images; they stay until `coracle image gc` deletes them"
        )?;
    }
    Ok(())
}
