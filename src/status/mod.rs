//! `coracle status`: what runs on this node, at a glance. It reads the kernel's files and the records and connects to no
//! socket, so it works while the daemon is stopped, does not start it, and delays no call of kubelet's.

mod processes;

use std::path::Path;

use serde::Serialize;

use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;
use crate::pod::summary::{PodSummary, summarize};
use crate::serve::config::Config;
use crate::serve::{recent, running};
use crate::store::{Store, Usage};

pub use processes::Process;

/// The state of the node.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The daemon, unless it is stopped.
    pub daemon: Option<Process>,
    /// The keeper and its standby.
    pub keepers: Vec<Process>,
    /// The pods, from their records.
    pub pods: Vec<PodSummary>,
    /// How many records of pods and containers cannot be read.
    pub unreadable_records: usize,
    /// The image store; none before its first use, or if it cannot be read.
    pub store: Option<StoreStatus>,
    /// The last warnings of the daemon, oldest first.
    pub warnings: Vec<String>,
    /// What could not be read.
    pub problems: Vec<Problem>,
}

/// A part of the status that could not be read, or only partly.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Problem {
    /// `pods` or `store`.
    pub topic: &'static str,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    fn new(topic: &'static str, error: &Error) -> Self {
        let usual = (topic == "store").then_some("`coracle image repair` rebuilds what it can");
        Self { topic, message: error.chain(), hint: error.first_hint().or(usual).map(str::to_owned) }
    }
}

/// The image store.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// Disk usage.
    #[serde(flatten)]
    pub usage: Usage,
    /// Images that have a damaged or missing layer, by a name of each.
    pub damaged: Vec<String>,
}

impl Status {
    /// Looks at the node.
    ///
    /// # Errors
    /// `Denied` for users who may not read the run directory. Other damage is among the problems.
    pub fn read(config: &Config) -> Result<Self> {
        let doing = || format!("read {}", config.run.display());
        match std::fs::read_dir(&config.run) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(Error::new(Kind::Denied, doing()).because(error).hint("run it as root"));
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).doing(doing),
            _ => {}
        }
        let mut problems = Vec::new();
        let mut note = |topic, error: Error| problems.push(Problem::new(topic, &error));
        let (pods, unreadable_records) = summarize(&config.run).unwrap_or_else(|error| {
            note("pods", error);
            (Vec::new(), 0)
        });
        let store = store(&config.store, &mut note).unwrap_or_else(|error| {
            note("store", error);
            None
        });
        Ok(Self {
            daemon: daemon(&config.run),
            keepers: processes::keepers(&config.run),
            pods,
            unreadable_records,
            store,
            warnings: warnings(&config.run),
            problems,
        })
    }
}

/// The process that has locked the run directory.
fn daemon(run: &Path) -> Option<Process> {
    Process::read(running::pid(run).ok()??)
}

fn store(root: &Path, note: &mut impl FnMut(&'static str, Error)) -> Result<Option<StoreStatus>> {
    let Some(store) = Store::open_to_read(root)? else { return Ok(None) };
    if store.has_lost_records()? {
        let error = Error::new(Kind::Corrupt, "the journal has lost records");
        note("store", error.hint("`coracle image repair` rebuilds what it can"));
    }
    let mut damaged = Vec::new();
    for image in store.images()? {
        let is_damaged = store.layers(&image)?.iter().any(|layer| layer.damaged);
        if is_damaged || !store.lower_dirs(&image).iter().all(|dir| dir.is_dir()) {
            damaged.push(image.names.first().cloned().unwrap_or_else(|| image.id.to_string()));
        }
    }
    Ok(Some(StoreStatus { usage: store.usage()?, damaged }))
}

fn warnings(run: &Path) -> Vec<String> {
    const MOST: u64 = 64 << 10;
    let bytes = private::read(&recent::file(run), MOST).unwrap_or_default();
    String::from_utf8_lossy(&bytes).lines().map(str::to_owned).collect()
}
