//! How a container ended. The keeper writes it as text, one `key=value` per line, and reports it to its clients.

use std::io::ErrorKind;

use serde::{Deserialize, Serialize};

use super::format::{EXIT, Unreadable};
use super::{ContainerState, Layout};
use crate::error::{Doing, Result};
use crate::linux::private;

/// The most that an exit file has, in bytes.
const MOST: u64 = 4096;

/// The key of the process that an exit file is about.
const PROCESS: &str = "process=";

/// How a container ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// The exit status; 128 + the signal that ended it; 255 when unknown.
    pub code: u8,
    /// The signal that ended it, if one did.
    pub signal: Option<i32>,
    /// Whether the OOM killer killed one of its processes.
    pub oom: bool,
    /// Whether the end is unknown: no keeper saw it, and the kernel no longer reports it.
    pub unknown: bool,
    /// When the keeper saw the end, in nanoseconds since 1970, UTC.
    pub at_ns: i64,
}

impl Exit {
    /// Converts the status that wait(2) reports.
    pub fn from_status(status: i32) -> Self {
        let byte = |n: i32| u8::try_from(n & 0xff).unwrap_or(u8::MAX);
        match status & 0x7f {
            0 => Self { code: byte(status >> 8), ..Self::default() },
            signal => Self { code: byte(128 + signal), signal: Some(signal), ..Self::default() },
        }
    }

    /// An end that no keeper saw.
    pub fn unknown() -> Self {
        Self { code: 255, unknown: true, ..Self::default() }
    }

    /// Reads a container's exit file; `None` while there is none.
    ///
    /// # Errors
    /// `Unsupported` when another release wrote it, `Corrupt` when it cannot be parsed.
    pub fn load(layout: &Layout) -> Result<Option<Self>> {
        read(layout)?.map(|text| Self::parse_file(layout, &text)).transpose()
    }

    /// The same, for the container with this state: a keeper may have written the file for an earlier container of the same
    /// name, of whose removal it knew nothing.
    ///
    /// # Errors
    /// As [`Exit::load`].
    pub fn load_of(layout: &Layout, state: &ContainerState) -> Result<Option<Self>> {
        let current = process_line(state.init_process_pid, state.init_process_start);
        let is_of_another = |text: &str| {
            let mut lines = text.lines();
            lines.find(|line| line.starts_with(PROCESS)).is_some_and(|line| line != current)
        };
        let text = read(layout)?.filter(|text| !is_of_another(text));
        text.map(|text| Self::parse_file(layout, &text)).transpose()
    }

    fn parse_file(layout: &Layout, text: &str) -> Result<Self> {
        Self::parse(text)
            .map_err(|unreadable| unreadable.while_doing(format!("read {}", layout.exit().display())))
    }

    /// The text of the exit file of a container with this first process, named by its pid and its start time in clock ticks
    /// since boot.
    pub fn to_file(&self, pid: i32, start: u64) -> String {
        self.to_text() + &process_line(pid, start) + "\n"
    }

    /// The text of an exit file.
    pub fn to_text(&self) -> String {
        let signal = self.signal.map_or_else(String::new, |signal| format!("signal={signal}\n"));
        let Self { code, oom, unknown, at_ns, .. } = self;
        format!(
            "version={}\ncode={code}\n{signal}oom={oom}\nunknown={unknown}\nat_ns={at_ns}\n",
            EXIT.version
        )
    }

    /// Parses the text that [`Exit::to_text`] writes.
    ///
    /// # Errors
    /// Another release wrote it, or it cannot be parsed.
    pub fn parse(text: &str) -> Result<Self, Unreadable> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let damaged = || EXIT.damaged("a value is missing, or is none");
        let version = value("version").map_or(Ok(1), str::parse).map_err(|_| damaged())?;
        EXIT.check(version)?;
        let at_ns = match version {
            // Version 1 had the time only as text for people.
            1 => value("at")
                .and_then(|at| chrono::DateTime::parse_from_rfc3339(at).ok()?.timestamp_nanos_opt()),
            _ => value("at_ns").and_then(|at| at.parse().ok()),
        };
        let exit = || {
            Some(Self {
                code: value("code")?.parse().ok()?,
                signal: value("signal").map(str::parse).transpose().ok()?,
                oom: value("oom")?.parse().ok()?,
                unknown: value("unknown")?.parse().ok()?,
                at_ns: at_ns?,
            })
        };
        exit().ok_or_else(damaged)
    }
}

fn process_line(pid: i32, start: u64) -> String {
    format!("{PROCESS}{pid} {start}")
}

fn read(layout: &Layout) -> Result<Option<String>> {
    let path = layout.exit();
    match private::read(&path, MOST) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        other => Ok(Some(
            String::from_utf8_lossy(&other.doing(|| format!("read {}", path.display()))?).into_owned(),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::golden;
    use proptest::prelude::*;

    fn killed() -> Exit {
        Exit { code: 137, signal: Some(9), oom: true, unknown: false, at_ns: 1_767_225_600_000_000_000 }
    }

    #[test]
    fn wait_statuses_become_exits() {
        let exit = |code, signal| Exit { code, signal, ..Exit::default() };
        assert_eq!(Exit::from_status(3 << 8), exit(3, None));
        assert_eq!(Exit::from_status(9), exit(137, Some(9)));
        // With a core dump.
        assert_eq!(Exit::from_status(11 | 0x80), exit(139, Some(11)));
    }

    #[test]
    fn golden_texts() {
        let samples = [
            ("killed", killed().to_text().into_bytes()),
            ("unknown", Exit::unknown().to_text().into_bytes()),
        ];
        golden::check("src/record/golden", "exit", EXIT, &samples);
        for version in [1, EXIT.version] {
            let (_, text) = golden::samples("src/record/golden", "exit", version).swap_remove(0);
            assert_eq!(Exit::parse(std::str::from_utf8(&text).unwrap()), Ok(killed()), "version {version}");
        }
    }

    #[test]
    fn a_text_of_another_release_is_refused_by_name() {
        let text = killed().to_text();
        let error = Exit::parse(&text.replace("version=2", "version=7")).unwrap_err();
        assert!(error.to_string().contains("version 7 of the record of a container's end"), "{error}");
        for length in 0..text.len() {
            // A number cut short is a different number; a text that lacks only its final newline is complete.
            if !text[..length].contains("at_ns=1") {
                assert!(Exit::parse(&text[..length]).is_err(), "{length} bytes");
            }
        }
        for damaged in ["code=x", "version=x\ncode=1", &text.replace("oom=true", "oom=perhaps")] {
            assert!(!Exit::parse(damaged).unwrap_err().is_of_another_release(), "{damaged}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(code: u8, signal: Option<i32>, oom: bool, unknown: bool, at_ns: i64) {
            let exit = Exit { code, signal, oom, unknown, at_ns };
            prop_assert_eq!(Exit::parse(&exit.to_text()), Ok(exit));
        }

        #[test]
        fn noise_is_an_error_and_never_a_panic(text: String) {
            let _ = Exit::parse(&text);
        }
    }
}
