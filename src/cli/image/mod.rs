//! `coracle image`: bring images in, list, show and remove them.
#![expect(clippy::print_stdout, reason = "the verbs of a command line print their results")]

mod import;
mod inspect;
mod ls;
mod pull;
mod registry_args;
mod report;
mod rm;

use std::io::Write;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::Context;
use crate::error::{Doing, Result};
use crate::store::ImageRecord;

pub(super) use registry_args::RegistryArgs;
pub(super) use report::progress;

/// Bring images in, list, show and remove them
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Read images from an OCI layout or an archive into the store
    Import(import::ImportArgs),
    /// Get images from registries
    Pull(Box<pull::PullArgs>),
    /// List the images in the store
    #[command(visible_alias = "list")]
    Ls(ls::LsArgs),
    /// Remove names; an image goes with its last name, or at once if named by its id
    Rm(rm::RmArgs),
    /// Show an image as JSON
    Inspect(inspect::InspectArgs),
}

/// Runs `coracle image`.
///
/// # Errors
/// What the verb answers.
pub fn run(ctx: &Context, args: &ImageArgs) -> Result<ExitCode> {
    match &args.verb {
        Verb::Import(args) => import::run(ctx, args),
        Verb::Pull(args) => pull::run(ctx, args),
        Verb::Ls(args) => ls::run(ctx, args),
        Verb::Rm(args) => rm::run(ctx, args),
        Verb::Inspect(args) => inspect::run(ctx, args),
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

fn print_json(value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).doing(|| "write JSON")?;
    writeln!(std::io::stdout().lock(), "{text}").doing(|| "write to standard output")
}

fn shown_names(image: &ImageRecord) -> Vec<String> {
    if image.names.is_empty() { vec!["<none>".to_owned()] } else { image.names.clone() }
}

/// A length for people: `12.3 MB`.
fn bytes(count: u64) -> String {
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
