//! `coracle kill`

use std::process::ExitCode;

use super::Context;
use crate::error::{Error, Result};
use crate::id::ContainerId;

/// Send a signal to a container
#[derive(Debug, clap::Args)]
pub(super) struct KillArgs {
    /// Send it to all processes of the container
    #[arg(short, long)]
    all: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
    /// Name or number, with or without SIG
    #[arg(value_name = "SIGNAL", default_value = "SIGTERM")]
    signal: String,
}

/// Runs `coracle kill`.
pub(super) fn run(context: &Context, args: &KillArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.id)?;
    let signal = parse_signal(&args.signal)?;
    crate::oci::kill::kill(&context.runtime(), &id, signal, args.all)
        .map_err(|e| e.doing(format!("kill container {id}")))?;
    Ok(ExitCode::SUCCESS)
}

/// A signal's number from its number or name; real-time ones as RTMIN+n and RTMAX-n.
pub(super) fn parse_signal(text: &str) -> Result<i32> {
    let unknown = || {
        Error::invalid(format!("there is no signal {text:?}"))
            .hint("see signal(7): KILL, SIGTERM, 15, RTMIN+1")
    };
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let (low, high) = (libc::SIGRTMIN(), libc::SIGRTMAX());
    let number = if let Ok(number) = name.parse::<i32>() {
        Some(number)
    } else if let Some(offset) = name.strip_prefix("RTMIN") {
        if offset.is_empty() {
            Some(low)
        } else {
            offset.strip_prefix('+').and_then(|n| Some(low + n.parse::<i32>().ok()?))
        }
    } else if let Some(offset) = name.strip_prefix("RTMAX") {
        if offset.is_empty() {
            Some(high)
        } else {
            offset.strip_prefix('-').and_then(|n| Some(high - n.parse::<i32>().ok()?))
        }
    } else {
        format!("SIG{name}").parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
    };
    number.filter(|n| (1..32).contains(n) || (low..=high).contains(n)).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in
            [("KILL", 9), ("SIGTERM", 15), ("sigusr1", 10), ("1", 1), ("RTMIN+1", libc::SIGRTMIN() + 1)]
        {
            assert_eq!(parse_signal(text).unwrap(), number, "{text}");
        }
        for bad in ["", "SIG", "NOPE", "0", "-9", "99", "RTMIN+99", "RTMIN-1", "32"] {
            assert!(parse_signal(bad).is_err(), "{bad}");
        }
    }
}
