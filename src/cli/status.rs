//! `coracle status`: what runs on this node.

use std::process::ExitCode;

use super::config::ConfigFile;
use super::image::bytes;
use super::{Context, report, table};
use crate::error::{Doing, Result};
use crate::pod::summary::{ContainerSummary, PodSummary};
use crate::record::time::now_ns;
use crate::status::{Problem, Status, StoreStatus};

/// How many of the last warnings are shown.
const WARNINGS: usize = 5;
/// The width of the first column.
const FIRST: usize = 8;

/// Show pods, containers, images, disk, memory and the last warnings of this node
///
/// The exit code is 0, or 1 if the store or the pods' records cannot be read. Nothing is changed or started.
#[derive(Debug, clap::Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigFile,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs `coracle status`.
pub(super) fn run(context: &Context, args: &StatusArgs) -> Result<ExitCode> {
    let status = Status::read(&args.config.load(&context.overrides)?)?;
    let text = match args.json {
        true => serde_json::to_string_pretty(&status).doing(|| "write the status")? + "\n",
        false => text(&status, table::width(), now_ns()),
    };
    report::print(&text)?;
    Ok(if status.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(status: &Status, width: usize, now_ns: i64) -> String {
    let line = |name: &str, text: &str| table::row(&[(name, FIRST)], text, width);
    let mut out = line("daemon", &daemon(status));
    out += &line("keeper", &keeper(status));
    out += &line("pods", &counts(status));
    out += &problems(status).iter().map(|(name, text)| line(name, text)).collect::<String>();
    out += &store(status).iter().map(|(name, text)| line(name, text)).collect::<String>();
    for pod in &status.pods {
        out += &shown(pod, width, now_ns);
    }
    if !status.warnings.is_empty() {
        out += "\nlast warnings of the daemon\n";
        let first = status.warnings.len().saturating_sub(WARNINGS);
        out += &status.warnings[first..]
            .iter()
            .map(|text| table::row(&[("", 0)], text, width))
            .collect::<String>();
    }
    out
}

fn daemon(status: &Status) -> String {
    match status.daemon {
        Some(process) => format!("running (pid {}), {}", process.pid, bytes(process.memory_bytes)),
        None => "stopped; pods run on, and kubelet cannot change them: systemctl start coracle".to_owned(),
    }
}

fn keeper(status: &Status) -> String {
    let memory = status.keepers.iter().map(|process| process.memory_bytes).sum();
    match status.keepers.as_slice() {
        [] => "not running; the next container starts it".to_owned(),
        [one] => format!("running (pid {}) without a standby, {}", one.pid, bytes(memory)),
        [one, ..] => format!("running (pid {}) with its standby, {}", one.pid, bytes(memory)),
    }
}

fn counts(status: &Status) -> String {
    let ready = status.pods.iter().filter(|pod| pod.ready).count();
    let state =
        |state| status.pods.iter().flat_map(|pod| &pod.containers).filter(|one| one.state == state).count();
    let unreadable = match status.unreadable_records {
        0 => String::new(),
        count => format!("; {count} records cannot be read"),
    };
    format!(
        "{ready} ready, {} not ready; containers: {} running, {} exited, {} created{unreadable}",
        status.pods.len() - ready,
        state("running"),
        state("exited"),
        state("created")
    )
}

fn problems(status: &Status) -> Vec<(&'static str, String)> {
    let text = |problem: &Problem| match &problem.hint {
        Some(hint) => format!("{}; {hint}", problem.message),
        None => problem.message.clone(),
    };
    status.problems.iter().map(|problem| (problem.topic, text(problem))).collect()
}

fn store(status: &Status) -> Vec<(&'static str, String)> {
    let is_damaged = status.problems.iter().any(|problem| problem.topic == "store");
    let Some(StoreStatus { usage, damaged }) = &status.store else {
        return match is_damaged {
            true => Vec::new(),
            false => vec![("images", "there is no store yet".to_owned())],
        };
    };
    let (images, reclaimable) = (usage.images, usage.images.reclaimable + usage.orphans.size);
    let health = match damaged.as_slice() {
        [] => "no damage is known; `coracle image verify` reads every file".to_owned(),
        names => format!("damaged: {}; `coracle image repair` fetches their layers again", names.join(", ")),
    };
    let mut lines = vec![
        (
            "images",
            format!("{}, {}; {} can be reclaimed", images.total, bytes(images.size), bytes(reclaimable)),
        ),
        ("disk", format!("{} are free on the store's file system", bytes(usage.free))),
        ("store", health),
    ];
    lines.retain(|(name, _)| *name != "store" || !is_damaged || !damaged.is_empty());
    lines
}

/// A pod, and its containers below it.
fn shown(pod: &PodSummary, width: usize, now_ns: i64) -> String {
    let state = if pod.ready { "ready" } else { "stopped" };
    let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
    let age = age((now_ns - pod.created_ns) / 1_000_000_000);
    let name = format!("{}/{}  {}  {age}", pod.namespace, pod.name, addresses.join(", "));
    let mut out = format!("\n{}", table::row(&[(state, FIRST)], &name, width));
    for container in &pod.containers {
        out += &table::row(&[("", FIRST), (container.state, 7)], &described(container), width);
    }
    out
}

fn described(container: &ContainerSummary) -> String {
    let mut text = format!("{}  {}", container.name, container.image);
    if container.attempt > 0 {
        text += &format!("  restarted {} times", container.attempt);
    }
    if let Some(code) = container.exit_code {
        text += &format!("  {} ({code})", container.reason);
    }
    if !container.message.is_empty() {
        text += &format!(": {}", container.message);
    }
    text
}

fn age(seconds: i64) -> String {
    match seconds {
        ..120 => format!("{} s", seconds.max(0)),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_short() {
        let cases =
            [(-5, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (172_800, "2 d"), (864_000, "10 d")];
        for (seconds, text) in cases {
            assert_eq!(age(seconds), text);
        }
    }
}
