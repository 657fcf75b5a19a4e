//! `coracle image import`: read images from an OCI layout or an archive.

use std::path::PathBuf;
use std::process::ExitCode;

use super::report::ProgressReport;
use super::{say, shown_names};
use crate::cli::Context;
use crate::error::Result;
use crate::image::import::{ImportOptions, import, open_source};
use crate::image::platform;
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct ImportArgs {
    /// An OCI layout directory, or an archive: an OCI layout in a tar, or what `docker save` writes; plain, gzip or
    /// zstd. `-` reads an archive from standard input
    #[arg(value_name = "PATH|-")]
    source: PathBuf,
    /// Choose the image for another platform, for example linux/arm/v7
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Import the images for every platform; a name means all of them, and first the one for this machine
    #[arg(short = 'a', long)]
    all_platforms: bool,
    /// Name the image, instead of using the source's names
    #[arg(short = 't', long = "name", value_name = "REF")]
    names: Vec<String>,
}

/// Runs the verb.
pub(super) fn run(ctx: &Context, args: &ImportArgs) -> Result<ExitCode> {
    let platform = args.platform.as_deref().map(platform::parse).transpose()?;
    let options = ImportOptions {
        platform,
        all_platforms: args.all_platforms,
        names: args.names.clone(),
        ..ImportOptions::default()
    };
    let source = open_source(&args.source)?;
    let store = Store::open(&ctx.store)?;
    let report = ProgressReport::new();
    let images = import(&store, source, &options, &report)?;
    for image in images {
        for name in shown_names(&image) {
            say!("{name} {}", image.id)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
