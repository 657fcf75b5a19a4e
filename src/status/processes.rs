//! Processes of this program and their memory.

use std::path::Path;

use serde::Serialize;

use crate::keeper;

/// A process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    /// Its pid.
    pub pid: i32,
    /// Its share of the memory that it uses with others (PSS), in bytes.
    pub memory_bytes: u64,
}

impl Process {
    /// Reads the memory of a process; `None` if it has ended, or belongs to another user.
    pub(super) fn read(pid: i32) -> Option<Self> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(Self { pid, memory_bytes: kib * 1024 })
    }
}

/// The keepers that serve this run directory: the one, and its standby.
pub(super) fn keepers(run: &Path) -> Vec<Process> {
    find(|arguments| {
        let own =
            arguments.iter().position(|argument| argument == "--run").and_then(|at| arguments.get(at + 1));
        is_program(arguments, "coracle-keeper")
            && own.map_or(keeper::RUN, String::as_str) == run.to_string_lossy()
    })
}

fn is_program(arguments: &[String], name: &str) -> bool {
    arguments.first().is_some_and(|program| Path::new(program).file_name() == Some(name.as_ref()))
}

fn find(is_wanted: impl Fn(&[String]) -> bool) -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut found: Vec<i32> = pids
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let arguments: Vec<String> = line
                .split(|byte| *byte == 0)
                .map(|part| String::from_utf8_lossy(part).into_owned())
                .collect();
            is_wanted(&arguments)
        })
        .collect();
    found.sort_unstable();
    found.into_iter().filter_map(Process::read).collect()
}
