//! How a container ended: written by its keeper, as `key=value` a line.

use std::io::ErrorKind;

use serde::{Deserialize, Serialize};

use super::Layout;
use super::format::{EXIT, Unreadable};
use crate::error::{Doing, Result};

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
    ///
    /// # Errors
    /// `Unsupported` when another release wrote it, `Corrupt` when it cannot be understood.
    pub fn load(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.exit();
        let doing = || format!("read {}", path.display());
        match std::fs::read_to_string(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            other => {
                let text = other.doing(doing)?;
                Self::parse(&text).map(Some).map_err(|unreadable| unreadable.while_doing(doing()))
            }
        }
    }

    fn parse(text: &str) -> Result<Self, Unreadable> {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let damaged = || EXIT.damaged("a value is missing, or is none");
        EXIT.check(value("version").map_or(Ok(1), str::parse).map_err(|_| damaged())?)?;
        Self::of_values(&value).ok_or_else(damaged)
    }

    fn of_values<'t>(value: &dyn Fn(&str) -> Option<&'t str>) -> Option<Self> {
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
        assert!(Exit::parse("code=x").is_err());
        let error = Exit::parse(&format!("version=7\n{text}")).unwrap_err();
        assert!(error.to_string().contains("version 7 of the record of a container's end"), "{error}");
    }
}
