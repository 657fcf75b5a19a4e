//! `coracle image`: bring images in, list, show and remove them.
#![expect(clippy::print_stdout, reason = "the verbs of a command line print their results")]

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::Context;
use crate::digest::Digest;
use crate::error::{Doing, Result};
use crate::image::import::{ImportOptions, import, open_source};
use crate::image::platform;
use crate::image::progress::{Outcome, Progress};
use crate::store::{ImageRecord, Removed, Store};

/// Bring images in, list, show and remove them
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Read images from an OCI layout or an archive into the store
    Import(ImportArgs),
    /// List the images in the store
    #[command(visible_alias = "list")]
    Ls(LsArgs),
    /// Remove names; an image goes with its last name, or at once if named by its id
    Rm(RmArgs),
    /// Show an image as JSON
    Inspect(InspectArgs),
}

#[derive(Debug, clap::Args)]
struct ImportArgs {
    /// An OCI layout directory, or an archive: an OCI layout in a tar, or what `docker save` writes; plain, gzip or
    /// zstd. `-` reads an archive from standard input
    #[arg(value_name = "PATH|-")]
    source: PathBuf,
    /// Choose the image for another machine than this one, for example linux/arm/v7
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// Name the image so, instead of what the source says
    #[arg(short = 't', long = "name", value_name = "REF")]
    names: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct LsArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print only ids
    #[arg(short, long, conflicts_with = "json")]
    quiet: bool,
}

#[derive(Debug, clap::Args)]
struct RmArgs {
    /// Names, ids or the first digits of an id
    #[arg(required = true, value_name = "NAME|ID")]
    images: Vec<String>,
}

#[derive(Debug, clap::Args)]
struct InspectArgs {
    /// A name, an id or its first digits
    #[arg(value_name = "NAME|ID")]
    image: String,
}

/// Runs `coracle image`.
///
/// # Errors
/// What the verb answers.
pub fn run(ctx: &Context, args: &ImageArgs) -> Result<ExitCode> {
    match &args.verb {
        Verb::Import(args) => run_import(ctx, args),
        Verb::Ls(args) => run_ls(ctx, args),
        Verb::Rm(args) => run_rm(ctx, args),
        Verb::Inspect(args) => run_inspect(ctx, args),
    }
}

fn run_import(ctx: &Context, args: &ImportArgs) -> Result<ExitCode> {
    let platform = args.platform.as_deref().map(platform::parse).transpose()?;
    let options = ImportOptions { platform, names: args.names.clone(), ..ImportOptions::default() };
    let source = open_source(&args.source)?;
    let store = Store::open(&ctx.store)?;
    let report = Report::new();
    let images = import(&store, source, &options, &report)?;
    for image in images {
        for name in shown_names(&image) {
            println!("{name} {}", image.id);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_ls(ctx: &Context, args: &LsArgs) -> Result<ExitCode> {
    let images = Store::open(&ctx.store)?.images()?;
    if args.json {
        print_json(&images.iter().map(summary).collect())?;
    } else if args.quiet {
        images.iter().for_each(|image| println!("{}", image.id));
    } else {
        print_table(&images);
    }
    Ok(ExitCode::SUCCESS)
}

fn run_rm(ctx: &Context, args: &RmArgs) -> Result<ExitCode> {
    for gone in Store::open(&ctx.store)?.remove(&args.images)? {
        match gone {
            Removed::Name(name) => println!("untagged {name}"),
            Removed::Image(id) => println!("removed {id}"),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_inspect(ctx: &Context, args: &InspectArgs) -> Result<ExitCode> {
    let store = Store::open(&ctx.store)?;
    let image = store.find(&args.image)?;
    let read = |digest: &Digest| -> Result<Value> {
        serde_json::from_slice(&store.blob(digest)?).doing(|| format!("read {digest}"))
    };
    let manifest = read(&image.manifest)?;
    let blobs = manifest["layers"].as_array().cloned().unwrap_or_default();
    let layers = store.layers(&image)?.into_iter().enumerate().map(|(index, layer)| {
        let blob = blobs.get(index).unwrap_or(&Value::Null);
        json!({
            "digest": blob["digest"],
            "mediaType": blob["mediaType"],
            "blobSize": blob["size"],
            "diffId": layer.diff_id,
            "size": layer.size_bytes,
            "path": store.lower_dir(layer.id),
        })
    });
    let mut whole = summary(&image);
    whole["layers"] = layers.collect();
    whole["config"] = read(&image.id)?;
    print_json(&whole)?;
    Ok(ExitCode::SUCCESS)
}

fn summary(image: &ImageRecord) -> Value {
    json!({
        "id": image.id,
        "manifest": image.manifest,
        "names": image.names,
        "platform": image.platform,
        "size": image.size_bytes,
        "imported": image.imported_at,
    })
}

fn print_json(value: &Value) -> Result<()> {
    let text = serde_json::to_string_pretty(value).doing(|| "write JSON")?;
    writeln!(std::io::stdout().lock(), "{text}").doing(|| "write to standard output")
}

fn print_table(images: &[ImageRecord]) {
    let row = |image: &ImageRecord| {
        let fixed = [image.id.hex()[..12].to_owned(), image.platform.to_string(), bytes(image.size_bytes)];
        shown_names(image).into_iter().map(move |name| (name, fixed.clone())).collect::<Vec<_>>()
    };
    let head = ["ID", "PLATFORM", "SIZE"].map(str::to_owned);
    let mut rows = vec![("NAME".to_owned(), head)];
    rows.extend(images.iter().flat_map(row));
    let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, [id, platform, size]) in rows {
        println!("{name:width$}  {id:12}  {platform:14}  {size:>9}");
    }
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

/// Progress on standard error: bars on a terminal, else a line for each layer that is done.
struct Report {
    bars: Option<MultiProgress>,
    layers: Mutex<HashMap<Digest, Layer>>,
}

struct Layer {
    bar: Option<ProgressBar>,
    size_bytes: u64,
    since: Instant,
}

impl Report {
    fn new() -> Self {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        Self { bars, layers: Mutex::default() }
    }

    fn line(&self, text: &str) {
        match &self.bars {
            Some(bars) => drop(bars.println(text)),
            // Nobody can be told that standard error is closed.
            None => drop(writeln!(std::io::stderr().lock(), "{text}")),
        }
    }

    fn bar(&self, layer: &Digest, size_bytes: u64) -> Option<ProgressBar> {
        let bar = self.bars.as_ref()?.add(ProgressBar::new(size_bytes));
        let template =
            "{prefix} [{bar:24}] {bytes:>11} of {total_bytes:11} {binary_bytes_per_sec:>13}  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(layer.hex()[..12].to_owned());
        Some(bar)
    }
}

impl Progress for Report {
    fn begin(&self, layer: &Digest, size_bytes: u64) {
        let begun = Layer { bar: self.bar(layer, size_bytes), size_bytes, since: Instant::now() };
        self.layers.lock().unwrap_or_else(PoisonError::into_inner).insert(*layer, begun);
    }

    fn advance(&self, layer: &Digest, bytes: u64) {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = layers.get(layer).and_then(|layer| layer.bar.as_ref()) {
            bar.inc(bytes);
        }
    }

    fn end(&self, layer: &Digest, outcome: Outcome) {
        let known = self.layers.lock().unwrap_or_else(PoisonError::into_inner).remove(layer);
        let what = match outcome {
            Outcome::Unpacked => "unpacked",
            Outcome::Present => "already here",
        };
        match known {
            Some(Layer { bar: Some(bar), .. }) => bar.finish_with_message(what),
            Some(Layer { size_bytes, since, .. }) => {
                let took = Duration::from_millis(since.elapsed().as_millis().try_into().unwrap_or(u64::MAX));
                self.line(&format!(
                    "layer {}: {what}, {} in {took:?}",
                    &layer.hex()[..12],
                    bytes(size_bytes)
                ));
            }
            None => self.line(&format!("layer {}: {what}", &layer.hex()[..12])),
        }
    }

    fn warn(&self, text: &str) {
        self.line(&format!("warning: {text}"));
    }
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
