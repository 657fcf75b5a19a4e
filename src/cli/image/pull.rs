//! `coracle image pull`: pulls images from registries.

use std::path::Path;
use std::process::ExitCode;

use serde_json::json;

use super::registry_args::RegistryArgs;
use super::report::{Events, ProgressReport, Quiet};
use crate::cli::{Context, report};
use crate::error::{Doing, Error, Result};
use crate::image::platform;
use crate::image::progress::Progress;
use crate::image::pull::{PullOptions, Pulled, pull};
use crate::store::Store;
use crate::store::reference::Reference;

#[derive(Debug, clap::Args)]
pub(super) struct PullArgs {
    /// Choose the image for another platform, for example linux/arm/v7
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Pull the images for every platform; the name refers to the one for this machine
    #[arg(short = 'a', long)]
    all_platforms: bool,
    /// Report progress as JSON, one event per line, on standard output
    #[arg(long)]
    json: bool,
    /// Print only ids
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
    #[command(flatten)]
    registry: RegistryArgs,
    /// Keep partial downloads of layers with at least this many bytes, so that a restart resumes them
    #[arg(long, value_name = "BYTES", hide = true)]
    spool_above: Option<u64>,
    /// Names of images, or files ending in .txt that list them, one per line
    #[arg(required = true, value_name = "NAME|LIST.txt")]
    images: Vec<String>,
}

/// Runs the verb. Pulls as many images as possible; the first failure is returned, the others are printed.
pub(super) fn run(ctx: &Context, args: &PullArgs) -> Result<ExitCode> {
    let usual = PullOptions::default();
    let options = PullOptions {
        platform: args.platform.as_deref().map(platform::parse).transpose()?,
        all_platforms: args.all_platforms,
        registry: args.registry.options()?,
        policy: args.registry.policy(),
        spool_above: args.spool_above.unwrap_or(usual.spool_above),
        ..usual
    };
    let references = references(&args.images)?;
    let store = Store::open(&ctx.store)?;
    let progress: Box<dyn Progress> = match (args.json, args.quiet) {
        (true, _) => Box::new(Events::new()),
        (_, true) => Box::new(Quiet),
        _ => Box::new(ProgressReport::new()),
    };
    let mut first: Option<Error> = None;
    for reference in &references {
        match pull(&store, reference, &options, &*progress) {
            Ok(pulled) => tell(args, reference, &pulled)?,
            Err(error) => {
                if args.json {
                    let event =
                        json!({"event": "failed", "name": reference.to_string(), "error": error.chain()});
                    report::print(&format!("{event}\n"))?;
                }
                match &first {
                    None => first = Some(error),
                    Some(_) => report::error(&error),
                }
            }
        }
    }
    first.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn tell(args: &PullArgs, reference: &Reference, pulled: &Pulled) -> Result<()> {
    let Some(image) = pulled.images.first() else { return Ok(()) };
    if args.json {
        let platforms: Vec<String> = pulled.images.iter().map(|image| image.platform.to_string()).collect();
        let event = json!({
            "event": "pulled",
            "name": reference.to_string(),
            "id": image.id,
            "digest": pulled.digest,
            "platforms": platforms,
            "present": pulled.was_here,
        });
        return report::print(&format!("{event}\n"));
    }
    if args.quiet {
        return report::print(&format!("{}\n", image.id));
    }
    report::print(&format!("{reference} {}\n", image.id))
}

/// The names on the command line and in the lists, each once.
fn references(images: &[String]) -> Result<Vec<Reference>> {
    let mut references: Vec<Reference> = Vec::new();
    let mut add = |name: &str| -> Result<()> {
        let reference = Reference::parse(name)?;
        if !references.contains(&reference) {
            references.push(reference);
        }
        Ok(())
    };
    for image in images {
        let is_list = image.ends_with(".txt") && Path::new(image).is_file();
        if !is_list {
            add(image)?;
            continue;
        }
        let text = std::fs::read_to_string(image).doing(|| format!("read {image}"))?;
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            add(line).map_err(|error| error.doing(format!("read {image}")))?;
        }
    }
    Ok(references)
}
