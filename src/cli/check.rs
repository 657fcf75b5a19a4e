//! `coracle check`: whether this machine can run pods.

use std::process::ExitCode;

use serde_json::json;

use super::config::ConfigFile;
use super::{Context, report, table};
use crate::check::{Probes, Report, Row, Runtime, State, Tree};
use crate::error::{Doing, Result};
use crate::serve::config::Config;

/// Check whether this machine can run pods, and say what to do about what is missing
///
/// The exit code is 0, or 1 if a row is an error. Nothing is changed, but for kernel modules that are loaded by trying.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show only warnings and errors
    #[arg(short, long)]
    quiet: bool,
}

/// Runs `coracle check`.
pub(super) fn run(context: &Context, args: &CheckArgs) -> Result<ExitCode> {
    let (config, error) = match args.config.load(&context.overrides) {
        Ok(config) => (config, None),
        Err(error) => (Config::default(), Some(error)),
    };
    let probes = Probes::of_this_machine(&config.store);
    let runtime = Runtime::of_this_machine(&config, error);
    let mut report = Report::new(&Tree::new("/"), &config, &probes, &runtime);
    let state = report.state();
    report.rows.retain(|row| !args.quiet || row.state >= State::Warning);
    let text = match args.json {
        true => {
            let all = json!({ "version": 1, "state": state, "rows": report.rows });
            serde_json::to_string_pretty(&all).doing(|| "write the report")? + "\n"
        }
        false => text(&report.rows, state, table::width()),
    };
    report::print(&text)?;
    Ok(if state == State::Error { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn name(state: State) -> &'static str {
    match state {
        State::NotApplicable => "-",
        State::Ok => "ok",
        State::Warning => "warning",
        State::Error => "ERROR",
    }
}

/// The rows as a table.
pub(super) fn rows_text(rows: &[Row], width: usize) -> String {
    let topics = rows.iter().map(|row| row.topic.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for row in rows {
        text += &table::row(&[(name(row.state), 7), (row.topic, topics)], &row.finding, width);
        if let Some(advice) = &row.advice {
            text += &table::row(&[("", 7), ("", topics)], &format!("-> {advice}"), width);
        }
    }
    text
}

fn text(rows: &[Row], state: State, width: usize) -> String {
    let conclusion = match state {
        State::NotApplicable | State::Ok => "This machine can run pods.\n",
        State::Warning => "This machine can run pods; mind the warnings.\n",
        State::Error => "This machine cannot run pods as it is.\n",
    };
    rows_text(rows, width) + conclusion
}
