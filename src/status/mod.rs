//! `coracle status`: what runs on this node, at a glance. It asks nobody but the kernel and reads the records, so it works
//! while the daemon is stopped, and delays no call of kubelet's.

mod processes;

use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::Serialize;

use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;
use crate::pod::summary::{PodSummary, summarize};
use crate::serve::config::Config;
use crate::serve::recent;
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
    /// The image store; none before its first use.
    pub store: Option<StoreStatus>,
    /// The last warnings of the daemon, oldest first.
    pub warnings: Vec<String>,
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
    /// `Denied` for users who may not read the run directory; `Corrupt` for a store whose journal is lost.
    pub fn read(config: &Config) -> Result<Self> {
        let doing = || format!("read {}", config.run.display());
        match std::fs::read_dir(&config.run) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                return Err(Error::new(Kind::Denied, doing()).because(error).hint("run it as root"));
            }
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).doing(doing),
            _ => {}
        }
        let (pods, unreadable_records) = summarize(&config.run)?;
        Ok(Self {
            daemon: daemon(&config.socket),
            keepers: processes::keepers(&config.run),
            pods,
            unreadable_records,
            store: store(&config.store)?,
            warnings: warnings(&config.run),
        })
    }
}

/// The process that listens on the socket.
fn daemon(socket: &Path) -> Option<Process> {
    let stream = UnixStream::connect(socket).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    match peer.pid.as_raw_nonzero().get() {
        // systemd made the socket.
        1 => processes::daemons().into_iter().next(),
        pid => Process::read(pid),
    }
}

fn store(root: &Path) -> Result<Option<StoreStatus>> {
    if !root.is_dir() {
        return Ok(None);
    }
    let store = Store::open_as_it_is(root)?;
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
