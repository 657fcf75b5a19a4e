//! `coracle ps`

use std::process::{Command, ExitCode};

use super::list::ListFormat;
use super::{Context, report};
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;

/// List the processes of a container
#[derive(Debug, clap::Args)]
pub(super) struct PsArgs {
    /// Print the output of ps(1), or only the pids as JSON
    #[arg(short, long, value_enum, default_value_t)]
    format: ListFormat,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
    /// Options for ps(1), -ef by default
    #[arg(value_name = "PS-OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

/// Runs `coracle ps`.
pub(super) fn run(context: &Context, args: &PsArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.id)?;
    let pids = crate::oci::ps::pids(&context.runtime(), &id)
        .map_err(|e| e.doing(format!("list the processes of container {id}")))?;
    let text = match args.format {
        ListFormat::Json => serde_json::to_string(&pids).doing(|| "write the list")? + "\n",
        ListFormat::Table => select(&ps(&args.options)?, &pids)?,
    };
    report::print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn ps(options: &[String]) -> Result<String> {
    let default = ["-ef".to_owned()];
    let options = if options.is_empty() { &default } else { options };
    let output = Command::new("ps").args(options).output().doing(|| "run ps")?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::new(Kind::Invalid, String::from_utf8_lossy(&output.stderr).trim().to_owned()).doing("run ps"))
}

/// The heading, and the lines whose PID is one of the container's.
fn select(text: &str, pids: &[i32]) -> Result<String> {
    let mut lines = text.lines();
    let heading = lines.next().unwrap_or_default();
    let column = heading.split_whitespace().position(|name| name == "PID").ok_or_else(|| {
        Error::invalid("these options leave ps without a PID column").hint("add pid to its output format")
    })?;
    let is_ours = |line: &&str| {
        line.split_whitespace()
            .nth(column)
            .and_then(|pid| pid.parse().ok())
            .is_some_and(|pid| pids.contains(&pid))
    };
    Ok(std::iter::once(heading).chain(lines.filter(is_ours)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_processes_are_shown() {
        let text = "UID PID CMD\nroot 1 init\nroot 42 sh\n";
        assert_eq!(select(text, &[42]).unwrap(), "UID PID CMD\nroot 42 sh\n");
        assert!(select("CMD\nsh\n", &[42]).is_err());
    }
}
