//! `coracle events`

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::{Context, report};
use crate::cgroup::Stats;
use crate::error::Result;
use crate::id::ContainerId;
use crate::oci::events::ContainerEvent;

/// Print a container's resource usage, and each OOM kill, as JSON
#[derive(Debug, clap::Args)]
pub(super) struct EventsArgs {
    /// Interval between reports: 500ms, 5s, 1m
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = interval)]
    interval: Duration,
    /// Print the usage once
    #[arg(long)]
    stats: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Parses a duration as runc does: a number and a unit.
fn interval(text: &str) -> std::result::Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().map_err(|_| "not of the form 500ms, 5s or 1m".to_owned())?;
    let unit = match unit {
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "m" => Duration::from_mins(1),
        _ => return Err("the unit is ms, s or m".to_owned()),
    };
    let interval = unit * number;
    if interval.is_zero() { Err("must be longer than zero".to_owned()) } else { Ok(interval) }
}

/// Runs `coracle events`.
pub(super) fn run(context: &Context, args: &EventsArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.id)?;
    let print = |event: &ContainerEvent| {
        let line = match event {
            ContainerEvent::Use(stats) => json!({ "type": "stats", "id": id.as_str(), "data": data(stats) }),
            ContainerEvent::OutOfMemory => json!({ "type": "oom", "id": id.as_str() }),
        };
        report::print(&format!("{line}\n"))
    };
    let runtime = context.runtime();
    let result = if args.stats {
        crate::oci::ps::stats(&runtime, &id).and_then(|stats| print(&ContainerEvent::Use(Box::new(stats))))
    } else {
        crate::oci::events::follow(&runtime, &id, args.interval, print)
    };
    result.map_err(|e| e.doing(format!("read the resource usage of container {id}")))?;
    Ok(ExitCode::SUCCESS)
}

/// The statistics in the format of runc's `events --stats`.
fn data(stats: &Stats) -> serde_json::Value {
    let mut data = json!({});
    if let Some(cpu) = &stats.cpu {
        data["cpu"] = json!({
            "usage": { "total": cpu.usage_ns, "kernel": cpu.system_ns, "user": cpu.user_ns },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_ns,
            },
        });
    }
    if let Some(memory) = &stats.memory {
        data["memory"] = json!({
            "usage": { "usage": memory.usage, "max": memory.peak, "limit": memory.limit, "failcnt": memory.failures },
            "swap": { "usage": memory.swap_usage, "limit": memory.swap_limit },
            "raw": memory.raw,
        });
    }
    if let Some(pids) = &stats.pids {
        data["pids"] = json!({ "current": pids.current, "limit": pids.limit });
    }
    data
}
