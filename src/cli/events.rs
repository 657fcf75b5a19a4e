//! `coracle events`

use std::process::ExitCode;

use serde_json::json;

use super::{Context, report};
use crate::cgroup::Stats;
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;

/// Print what a container uses, as JSON
#[derive(Debug, clap::Args)]
pub(super) struct EventsArgs {
    /// Print it once
    #[arg(long)]
    stats: bool,
    /// Name of the container
    #[arg(value_name = "ID")]
    id: String,
}

/// Runs `coracle events`.
pub(super) fn run(context: &Context, args: &EventsArgs) -> Result<ExitCode> {
    let id = ContainerId::parse(&args.id)?;
    if !args.stats {
        return Err(Error::new(Kind::Unsupported, "following events is not supported").hint("use --stats"));
    }
    let stats = crate::oci::ps::stats(&context.runtime(), &id)
        .map_err(|e| e.doing(format!("read the use of container {id}")))?;
    let line = json!({ "type": "stats", "id": id.as_str(), "data": data(&stats) });
    report::print(&format!("{line}\n"))?;
    Ok(ExitCode::SUCCESS)
}

/// In the shape of runc's `events --stats`.
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
