//! `coracle image df`: shows the disk usage of the store.

use std::process::ExitCode;

use serde_json::json;

use super::{bytes, print_json, say, shown_names};
use crate::cli::Context;
use crate::error::Result;
use crate::store::{Amount, Store, Usage};

#[derive(Debug, clap::Args)]
pub(super) struct DfArgs {
    /// Show each image
    #[arg(short, long, conflicts_with = "json")]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub(super) fn run(ctx: &Context, args: &DfArgs) -> Result<ExitCode> {
    let usage = Store::open(&ctx.store)?.usage()?;
    if args.json {
        print_json(&json!(usage))?;
    } else {
        print_totals(&usage)?;
        if args.verbose {
            print_images(&usage)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_totals(usage: &Usage) -> Result<()> {
    say!("{:17}  {:>5}  {:>6}  {:>9}  {:>11}", "TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE")?;
    let rows: [(&str, &Amount); 5] = [
        ("images", &usage.images),
        ("shared layers", &usage.shared),
        ("unused layers", &usage.orphans),
        ("partial downloads", &usage.partial),
        ("unfinished work", &usage.waste),
    ];
    for (name, amount) in rows {
        let (size, reclaimable) = (bytes(amount.size), bytes(amount.reclaimable));
        say!("{name:17}  {:>5}  {:>6}  {size:>9}  {reclaimable:>11}", amount.total, amount.active)?;
    }
    say!("\nfree on the file system of the store: {}", bytes(usage.free))
}

fn print_images(usage: &Usage) -> Result<()> {
    let names: Vec<String> =
        usage.by_image.iter().map(|image| shown_names(&image.image).join(", ")).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max("NAME".len());
    say!(
        "\n{:width$}  {:12}  {:>9}  {:>9}  {:>9}  {:>10}",
        "NAME",
        "ID",
        "SIZE",
        "SHARED",
        "UNIQUE",
        "CONTAINERS"
    )?;
    for (name, used) in names.iter().zip(&usage.by_image) {
        let [size, shared, unique] = [used.image.size_bytes, used.shared, used.unique].map(bytes);
        let (id, containers) = (&used.image.id.hex()[..12], used.containers);
        say!("{name:width$}  {id:12}  {size:>9}  {shared:>9}  {unique:>9}  {containers:>10}")?;
    }
    Ok(())
}
