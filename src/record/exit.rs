//! How a container ended: written by its keeper, as `key=value` a line.

use serde::{Deserialize, Serialize};

use super::Layout;

/// How a container ended.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Exit {
    /// The status; 128 + the signal that ended it; 255 when nobody knows.
    pub exit_code: u8,
    /// A process of it was killed for want of memory.
    pub oom_killed: bool,
    /// Nobody was there to see it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub exit_unknown: bool,
    /// When, RFC 3339, UTC.
    pub finished_at: String,
}

impl Exit {
    /// Reads it; `None` while there is none.
    pub fn load(layout: &Layout) -> Option<Self> {
        Self::parse(&std::fs::read_to_string(layout.exit()).ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        Some(Self {
            exit_code: value("code")?.parse().ok()?,
            oom_killed: value("oom")? == "true",
            exit_unknown: value("unknown")? == "true",
            finished_at: value("at")?.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_keeper_writes_is_read() {
        let text = "code=137\nsignal=9\noom=true\nunknown=false\nat=2026-01-01T00:00:00.000000000Z\n";
        let exit = Exit::parse(text).unwrap();
        assert_eq!((exit.exit_code, exit.oom_killed, exit.exit_unknown), (137, true, false));
        assert_eq!(Exit::parse("code=x"), None);
    }
}
