//! `coracle image verify`: finds files that changed since the import.

use std::process::ExitCode;

use serde_json::json;

use super::{chosen, finding_line, print_json, say};
use crate::cli::Context;
use crate::error::Result;
use crate::store::Store;

#[derive(Debug, clap::Args)]
pub(super) struct VerifyArgs {
    /// Names or ids; all images when none is given
    #[arg(value_name = "NAME|ID")]
    images: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The most findings in the JSON output; there may be one for each file of a store.
const MOST_IN_JSON: usize = 10_000;

/// Runs the verb. Returns exit code 1 when anything is damaged.
pub(super) fn run(ctx: &Context, args: &VerifyArgs) -> Result<ExitCode> {
    let store = Store::open(&ctx.store)?;
    let images = chosen(&store, &args.images)?;
    let mut findings = Vec::new();
    let mut printed = Ok(());
    let verdict = store.verify(&images, &mut |finding| {
        if args.json && findings.len() < MOST_IN_JSON {
            findings.push(finding.clone());
        } else if !args.json && printed.is_ok() {
            printed = say!("{}", finding_line(finding));
        }
    })?;
    printed?;
    if args.json {
        print_json(&json!({"verdict": verdict, "findings": findings}))?;
    } else if verdict.findings == 0 {
        let (images, layers, paths) = (verdict.images, verdict.layers, verdict.paths);
        say!("{images} images, {layers} layers, {paths} paths: all unchanged")?;
    } else {
        let (found, layers) = (verdict.findings, verdict.damaged_layers);
        say!("{found} differences, {layers} damaged layers; `coracle image repair` fetches them again")?;
    }
    Ok(if verdict.findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
