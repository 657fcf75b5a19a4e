//! The last warnings of the daemon, in a file of the run directory: `coracle status` shows them, also where no journal is.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::linux::private;
use crate::record::time::{now_ns, rfc3339};

/// How many are kept.
const MOST: usize = 20;
/// How much of one is kept, in bytes.
const LONGEST: usize = 1000;

/// The file below the run directory.
pub fn file(run: &Path) -> PathBuf {
    run.join("warnings")
}

/// Keeps the warnings of this process from now on.
pub(super) fn keep(run: &Path) {
    let recent = Mutex::new(Recent { path: file(run), lines: VecDeque::new() });
    crate::log::record(move |level, message| {
        if level != "debug" {
            recent.lock().unwrap_or_else(PoisonError::into_inner).add(message);
        }
    });
}

/// The last warnings, one a line, and the file that has them.
struct Recent {
    path: PathBuf,
    lines: VecDeque<String>,
}

impl Recent {
    fn add(&mut self, message: &str) {
        let end = message.floor_char_boundary(LONGEST);
        self.lines.push_back(format!("{} {}\n", rfc3339(now_ns()), message[..end].replace('\n', " ")));
        if self.lines.len() > MOST {
            self.lines.pop_front();
        }
        let text: String = self.lines.iter().map(String::as_str).collect();
        // If the tmpfs is full, the warning is in the journal all the same.
        let _ = private::replace(&self.path, &self.path.with_extension("new"), text, private::FILE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_one_a_line() {
        let run = tempfile::tempdir().unwrap();
        let mut recent = Recent { path: file(run.path()), lines: VecDeque::new() };
        for number in 0..30 {
            recent.add(&format!("number {number}\nof {}", "x\u{301}".repeat(1000)));
        }
        let text = std::fs::read_to_string(file(run.path())).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), MOST);
        assert!(
            lines[0].contains(" number 10 of x") && lines[MOST - 1].contains(" number 29 of x"),
            "{text}"
        );
        assert!(lines.iter().all(|line| line.len() < LONGEST + 100), "{text}");
    }
}
