//! `coracle image ls`: list the images in the store.

use std::process::ExitCode;

use super::{bytes, print_json, say, shown_names, summary};
use crate::cli::Context;
use crate::error::Result;
use crate::store::{ImageRecord, Store};

#[derive(Debug, clap::Args)]
pub(super) struct LsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print only ids
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

/// Runs the verb.
pub(super) fn run(ctx: &Context, args: &LsArgs) -> Result<ExitCode> {
    let images = Store::open(&ctx.store)?.images()?;
    if args.json {
        print_json(&images.iter().map(summary).collect())?;
    } else if args.quiet {
        images.iter().try_for_each(|image| say!("{}", image.id))?;
    } else {
        print_table(&images)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn print_table(images: &[ImageRecord]) -> Result<()> {
    let row = |image: &ImageRecord| {
        let fixed = [image.id.hex()[..12].to_owned(), image.platform.to_string(), bytes(image.size_bytes)];
        shown_names(image).into_iter().map(move |name| (name, fixed.clone())).collect::<Vec<_>>()
    };
    let head = ["ID", "PLATFORM", "SIZE"].map(str::to_owned);
    let mut rows = vec![("NAME".to_owned(), head)];
    rows.extend(images.iter().flat_map(row));
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, [id, platform, size]) in rows {
        say!("{name:width$}  {id:12}  {platform:14}  {size:>9}")?;
    }
    Ok(())
}
