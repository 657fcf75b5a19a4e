//! The inner side of an attack: runs in a container, as a program of its own.

mod look;
mod once;

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process};

use super::report::{ORDERS, OUT, Orders, Report, Role, STOP};

/// How a process is called (the end of its first argument) that is not yet its payload; no payload of these tests is
/// called so. The last two are for the peers.
const OURS: [&str; 4] = ["coracle", "coracle-keeper", "runc", "crun"];

/// What a process is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Still the runtime's own program.
    SetUp,
    /// It has executed what it was started for, or is none of ours.
    Other,
    Gone,
}

/// An attack under way.
struct Attack {
    orders: Orders,
    report: Report,
    /// Capabilities that this container may have.
    own_capabilities: u64,
}

/// Not a test: the program that the others start inside containers. Without orders there is nothing to do.
#[test]
#[ignore = "runs inside the containers of the other tests here"]
fn inside() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let orders: Orders = serde_json::from_str(&orders).unwrap();
    let own_capabilities = look::capabilities("self", "CapBnd:").unwrap_or_default();
    let mut attack = Attack { orders, report: Report::default(), own_capabilities };
    match attack.orders.role {
        Role::Inherit => once::inherit(&mut attack.report),
        Role::Mangle => once::mangle(&mut attack.report),
        Role::Swap => once::swap(&mut attack.report),
        Role::Spy | Role::Stop | Role::Kill | Role::Meddle | Role::Overwrite => attack.watch(),
    }
    attack.report.done = true;
    attack.report.publish(Path::new(OUT));
    // As the container's first process it would take the container with it.
    if !matches!(attack.orders.role, Role::Inherit | Role::Mangle) {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

impl Attack {
    /// Attacks whatever appears in this PID namespace, until it is told to stop.
    fn watch(&mut self) {
        let (out, stop) = (Path::new(OUT), Path::new(OUT).join(STOP));
        let mut known: HashSet<i32> = pids().collect();
        let mut targets = HashMap::new();
        self.report.publish(out);
        let mut published = Instant::now();
        loop {
            let now: HashSet<i32> = pids().collect();
            for pid in now.difference(&known) {
                targets.insert(*pid, false);
            }
            known = now;
            targets.retain(|pid, seen| self.attack(*pid, seen));
            if published.elapsed() > Duration::from_millis(50) {
                if stop.exists() {
                    return;
                }
                self.report.publish(out);
                published = Instant::now();
            }
        }
    }

    /// One attempt at a process; whether another one is worth it.
    fn attack(&mut self, pid: i32, seen: &mut bool) -> bool {
        let Some(target) = Pid::from_raw(pid) else { return false };
        if self.orders.only.is_some() && self.stage(pid) != Stage::SetUp {
            return false;
        }
        if !*seen {
            self.report.newcomers += 1;
        }
        let again = match self.orders.role {
            Role::Stop => self.stop(target),
            Role::Kill => self.kill(target),
            Role::Meddle => self.meddle(target),
            Role::Overwrite => self.overwrite(pid),
            _ => self.look(pid),
        };
        let is_set_up = self.stage(pid) == Stage::SetUp;
        if is_set_up && !*seen {
            self.report.set_up += 1;
        }
        *seen = true;
        again && is_set_up
    }

    /// What a process is.
    fn stage(&self, pid: i32) -> Stage {
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return Stage::Gone };
        let has = |word: &str| line.windows(word.len()).any(|part| part == word.as_bytes());
        let is_ours = line
            .split(|byte| *byte == 0)
            .next()
            .is_some_and(|name| OURS.iter().any(|own| name.ends_with(own.as_bytes())));
        match (line.is_empty(), is_ours && self.orders.only.as_ref().is_none_or(|word| has(word))) {
            (true, _) => Stage::Gone,
            (_, true) => Stage::SetUp,
            (_, false) => Stage::Other,
        }
    }

    /// Stops it. A payload that was stopped by mistake goes on.
    fn stop(&mut self, target: Pid) -> bool {
        let pid = target.as_raw_nonzero().get();
        if kill_process(target, Signal::STOP).is_err() {
            return true;
        }
        match self.stage(pid) {
            Stage::SetUp => self.report.hit("stopped", || format!("{pid}")),
            Stage::Other | Stage::Gone => drop(kill_process(target, Signal::CONT)),
        }
        false
    }

    fn kill(&mut self, target: Pid) -> bool {
        let signal = if self.report.newcomers.is_multiple_of(2) { Signal::TERM } else { Signal::KILL };
        let stage = self.stage(target.as_raw_nonzero().get());
        if stage != Stage::SetUp {
            return false;
        }
        let done = kill_process(target, signal).is_ok();
        if done {
            self.report.hit("killed", || format!("{signal:?}"));
        }
        !done || signal == Signal::TERM
    }

    fn meddle(&mut self, target: Pid) -> bool {
        let pid = target.as_raw_nonzero().get();
        if fs::write(format!("/proc/{pid}/oom_score_adj"), "1000").is_ok() {
            self.report.hit("oom_score_adj", || format!("{pid}"));
        }
        for (resource, most) in [(Resource::Nofile, 3), (Resource::Fsize, 0), (Resource::Nproc, 1)] {
            let limit = Rlimit { current: Some(most), maximum: Some(most) };
            if rustix::process::prlimit(Some(target), resource, limit).is_ok() {
                self.report.hit("limits", || format!("{resource:?} of {pid}"));
            }
        }
        if rustix::process::setpriority_process(Some(target), 19).is_ok() {
            self.report.hit("priority", || format!("{pid}"));
        }
        true
    }
}

/// All processes of this PID namespace.
fn pids() -> impl Iterator<Item = i32> {
    let own = std::process::id().cast_signed();
    let entries = fs::read_dir("/proc").unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(move |pid| *pid != own)
}
