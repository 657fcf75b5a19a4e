//! What an attacker is told, and what it reports.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// The variable that holds the attacker's [`Orders`] as JSON.
pub(super) const ORDERS: &str = "CORACLE_HOSTILE";
/// Where the attacker's directory is mounted; see [`super::Spy`].
pub(super) const OUT: &str = "/hostile/out";
/// Made in that directory when the attack is over.
pub(super) const STOP: &str = "stop";

/// What an attacker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    /// Traces every process that appears, and opens what /proc shows of it.
    Spy,
    /// Stops every process that appears.
    Stop,
    /// Ends every process that appears, one with SIGTERM, the next with SIGKILL and so on.
    Kill,
    /// Changes limits, priority, processors and OOM score of every process that appears.
    Meddle,
    /// Opens the executable of every process that appears, and tries to write to it as soon as nobody runs it.
    Overwrite,
    /// Exchanges a directory and a symbolic link, over and over.
    Swap,
    /// Reports what a payload has inherited, and ends.
    Inherit,
    /// Changes owner, mode and times of everything it can name or has open, and ends.
    Mangle,
}

/// What an attacker is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) role: Role,
    /// A file that only the host has.
    pub(super) mark: String,
    /// The host's mount namespace, as its link in /proc reads.
    pub(super) host_mounts: String,
    /// Only processes with this word on their command line are attacked. For attackers that see all of the host.
    pub(super) only: Option<String>,
}

/// What an attacker has achieved.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Report {
    /// The attack is over.
    pub(super) done: bool,
    /// Processes that have appeared.
    pub(super) newcomers: u32,
    /// Those among them that were seen before they were their payload.
    pub(super) set_up: u32,
    /// How often each thing succeeded that should not.
    pub(super) hits: BTreeMap<String, u32>,
    /// What some of them were.
    pub(super) examples: Vec<String>,
}

impl Report {
    /// Counts one success.
    pub(super) fn hit(&mut self, kind: &str, detail: impl FnOnce() -> String) {
        let count = self.hits.entry(kind.to_owned()).or_default();
        *count += 1;
        if *count <= 2 {
            self.examples.push(format!("{kind}: {}", detail()));
        }
    }

    /// Writes it so that a reader never finds half of it.
    pub(super) fn publish(&self, dir: &Path) {
        let new = dir.join("report.new");
        fs::write(&new, serde_json::to_vec(self).unwrap()).unwrap();
        fs::rename(&new, dir.join("report")).unwrap();
    }

    /// The last one written, if any.
    pub(super) fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(dir.join("report")).ok()?).ok()
    }
}
