//! `coracle image`: imports, pulls, lists, shows and removes images.

mod df;
mod export;
mod gc;
mod import;
mod inspect;
mod ls;
mod prune;
mod pull;
mod registry_args;
mod repair;
mod report;
mod rm;
mod tag;
mod verify;

use std::process::ExitCode;

use serde_json::{Value, json};

use super::Context;
use crate::error::{Doing, Result};
use crate::store::{Finding, ImageRecord, Store};

/// Prints a line. A broken pipe is no failure.
macro_rules! say {
    ($($text:tt)*) => {
        $crate::cli::report::print(&(format!($($text)*) + "\n"))
    };
}
use say;

pub(super) use registry_args::RegistryArgs;
pub(super) use report::progress;

/// Import, pull, list, show and remove images
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    verb: ImageVerb,
}

#[derive(Debug, clap::Subcommand)]
enum ImageVerb {
    /// Read images from an OCI layout or an archive into the store
    Import(import::ImportArgs),
    /// Pull images from registries
    Pull(Box<pull::PullArgs>),
    /// List the images in the store
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Remove names; an image is removed with its last name, or at once if given by its id
    Rm(rm::RmArgs),
    /// Show an image as JSON
    Inspect(inspect::InspectArgs),
    /// Give an image more names
    Tag(tag::TagArgs),
    /// Write images as an OCI layout or a docker archive
    #[command(visible_alias = "save")]
    Export(export::ExportArgs),
    /// Find files that changed since the import; exit code 1 when something is damaged
    Verify(verify::VerifyArgs),
    /// Fetch damaged layers again, and nothing else
    Repair(Box<repair::RepairArgs>),
    /// Remove what dead processes and removed images left behind
    Gc(gc::GcArgs),
    /// Remove images that have no name, or that no container uses
    Prune(prune::PruneArgs),
    /// Show the disk usage of images
    Df(df::DfArgs),
}

/// Runs `coracle image`.
///
/// # Errors
/// Runs the verb and returns its exit code.
pub fn run(ctx: &Context, args: &ImageArgs) -> Result<ExitCode> {
    match &args.verb {
        ImageVerb::Import(args) => import::run(ctx, args),
        ImageVerb::Pull(args) => pull::run(ctx, args),
        ImageVerb::Ls(args) => ls::run(ctx, args),
        ImageVerb::Rm(args) => rm::run(ctx, args),
        ImageVerb::Inspect(args) => inspect::run(ctx, args),
        ImageVerb::Tag(args) => tag::run(ctx, args),
        ImageVerb::Export(args) => export::run(ctx, args),
        ImageVerb::Verify(args) => verify::run(ctx, args),
        ImageVerb::Repair(args) => repair::run(ctx, args),
        ImageVerb::Gc(args) => gc::run(ctx, args),
        ImageVerb::Prune(args) => prune::run(ctx, args),
        ImageVerb::Df(args) => df::run(ctx, args),
    }
}

fn summary(image: &ImageRecord) -> Value {
    json!({
        "id": image.id,
        "manifest": image.manifest,
        "names": image.names,
        "repoDigests": image.repo_digests,
        "platform": image.platform,
        "size": image.size_bytes,
        "imported": image.imported_at,
    })
}

/// The images that `names` refer to, each once; all images if there are no names.
fn chosen(store: &Store, names: &[String]) -> Result<Vec<ImageRecord>> {
    if names.is_empty() {
        return store.images();
    }
    let mut images: Vec<ImageRecord> = Vec::new();
    for name in names {
        let image = store.find(name)?;
        if images.iter().all(|known| known.manifest != image.manifest) {
            images.push(image);
        }
    }
    Ok(images)
}

fn finding_line(finding: &Finding) -> String {
    let images = finding.images.join(", ");
    let image = if images.is_empty() { String::new() } else { format!("{images}: ") };
    match &finding.layer {
        Some(layer) => format!("{image}layer {layer}: /{}: {}", finding.path, finding.what),
        None => format!("{image}{}: {}", finding.path, finding.what),
    }
}

fn print_json(value: &Value) -> Result<()> {
    say!("{}", serde_json::to_string_pretty(value).doing(|| "write JSON")?)
}

fn shown_names(image: &ImageRecord) -> Vec<String> {
    if image.names.is_empty() { vec!["<none>".to_owned()] } else { image.names.clone() }
}

/// Formats a size for people: `12.3 MB`.
pub(super) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{value} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_readable() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_500, "1.5 kB"),
            (12_300_000, "12.3 MB"),
            (2_000_000_000_000, "2.0 TB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }
}
