//! `coracle image verify`: find what is no longer as it came in.

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

/// Findings in one JSON answer; there may be one for each file of a store.
const MOST_IN_JSON: usize = 10_000;

/// Runs the verb: exit code 1 when anything is damaged.
pub(super) fn run(ctx: &Context, args: &VerifyArgs) -> Result<ExitCode> {
    let store = Store::open(&ctx.store)?;
    let images = chosen(&store, &args.images)?;
    let mut findings = Vec::new();
    let mut said = Ok(());
    let verdict = store.verify(&images, &mut |finding| {
        if args.json && findings.len() < MOST_IN_JSON {
            findings.push(finding.clone());
        } else if !args.json && said.is_ok() {
            said = say!("{}", finding_line(finding));
        }
    })?;
    said?;
    if args.json {
        print_json(&json!({"verdict": verdict, "findings": findings}))?;
    } else if verdict.findings == 0 {
        let (images, layers, paths) = (verdict.images, verdict.layers, verdict.paths);
        say!("{images} images, {layers} layers, {paths} paths: all as they came in")?;
    } else {
        let (found, layers) = (verdict.findings, verdict.damaged_layers);
        say!("{found} differences, {layers} damaged layers; `coracle image repair` brings them in again")?;
    }
    Ok(if verdict.findings == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
