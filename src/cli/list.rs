//! `coracle list`

use std::process::ExitCode;

use super::{Context, report};
use crate::error::{Doing, Result};
use crate::record::PublicState;

/// Format of lists
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ListFormat {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// List containers
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Print a table or JSON
    #[arg(short, long, value_enum, default_value_t)]
    format: ListFormat,
    /// Print only names
    #[arg(short, long)]
    quiet: bool,
}

/// Runs `coracle list`.
pub(super) fn run(context: &Context, args: &ListArgs) -> Result<ExitCode> {
    let (states, unknown) = crate::oci::state::list(&context.runtime())?;
    for error in unknown {
        crate::log::warning(&error.to_string());
    }
    let text = match (args.quiet, args.format) {
        (true, _) => states.iter().map(|s| format!("{}\n", s.id)).collect(),
        (false, ListFormat::Json) => serde_json::to_string(&states).doing(|| "write the list")? + "\n",
        (false, ListFormat::Table) => table(&states),
    };
    report::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn table(states: &[PublicState]) -> String {
    let mut rows = vec![["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned)];
    rows.extend(states.iter().map(|s| {
        [
            s.id.clone(),
            s.pid.to_string(),
            status(s),
            s.bundle.display().to_string(),
            s.created.clone(),
            s.owner.clone(),
        ]
    }));
    align(&rows)
}

/// The status, and the exit if known.
fn status(state: &PublicState) -> String {
    match &state.exit {
        Some(exit) if exit.unknown => format!("{} (unknown)", state.status),
        Some(exit) if exit.oom => format!("{} ({}, out of memory)", state.status, exit.code),
        Some(exit) => format!("{} ({})", state.status, exit.code),
        None => state.status.clone(),
    }
}

/// Formats columns as wide as their widest cell, three blanks apart.
fn align<const N: usize>(rows: &[[String; N]]) -> String {
    let widths: Vec<usize> =
        (0..N).map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &[String; N]| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        cells.join("   ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let rows = [["a".to_owned(), "bb".to_owned()], ["ccc".to_owned(), "d".to_owned()]];
        assert_eq!(align(&rows), "a     bb\nccc   d\n");
    }
}
