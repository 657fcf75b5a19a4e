//! What a container's cgroup shall be, worked out before anything is touched.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxMemory, LinuxResources};

use super::cgroup_path::CgroupPath;
use super::devices::{self, Rule};
use super::limits::Limits;
use super::write::controllers;
use super::{Driver, MOUNT, Mode};
use crate::error::{Error, Result};
use crate::id::ContainerId;

/// Less than this no process lives on: its kernel stack and page tables alone take half of it.
const LEAST_MEMORY: i64 = 128 << 10;

/// A container's cgroup as data: where it goes, what is written there, which devices it lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The version of the hierarchy it is for.
    pub mode: Mode,
    /// Where the directory goes.
    pub path: CgroupPath,
    /// The limits.
    pub limits: Limits,
    /// The device rules, defaults included: the last that matches decides.
    pub devices: Vec<Rule>,
    /// V2: the controllers that must work in the cgroup, because a limit needs them, then those that are merely
    /// welcome ([`Plan::accounted`]).
    pub controllers: Vec<String>,
    /// V1: the same rules as files and values.
    pub v1_devices: Vec<(&'static str, String)>,
    root: PathBuf,
}

impl Plan {
    /// Converts and checks; touches nothing.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported`, naming the field of the spec.
    pub fn new(linux: Option<&Linux>, id: &ContainerId, driver: Driver, mode: Mode) -> Result<Self> {
        let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
        let resources = linux.and_then(|linux| linux.resources().as_ref());
        let limits = resources.map(|r| Limits::new(r, mode)).transpose()?.unwrap_or_default();
        holds_one_process(resources)?;
        let spec = resources.and_then(|r| r.devices().as_deref()).unwrap_or_default();
        let mut rules = devices::from_spec(spec)?;
        rules.extend(devices::DEFAULT_ALLOWED);
        let v1_devices = match mode {
            Mode::V1 => devices::v1_writes(&rules)?,
            Mode::V2 => Vec::new(),
        };
        let controllers = match mode {
            Mode::V1 => Vec::new(),
            Mode::V2 => controllers(&limits.writes),
        };
        let path = CgroupPath::new(path, id, driver)?;
        Ok(Self { mode, path, limits, devices: rules, controllers, v1_devices, root: PathBuf::from(MOUNT) })
    }

    /// V2: also asks for the controllers that only count, so that [`super::Group::stats`] is complete for a container
    /// without limits. A kubelet's parents have them on already; for a lone container each costs time at creation.
    #[must_use]
    pub fn accounted(mut self) -> Self {
        if self.mode == Mode::V2 {
            for name in ["cpu", "io", "memory", "pids"] {
                if !self.controllers.iter().any(|own| own == name) {
                    self.controllers.push(name.to_owned());
                }
            }
        }
        self
    }

    /// Fields of the spec that this host's cgroup version has nothing for, worth a warning.
    pub fn ignored(&self) -> &[&'static str] {
        &self.limits.ignored
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

/// Refused by name, because what becomes of such a payload is chance: v1 charges in batches, so that it is killed before
/// its first instruction or shortly after. A limit for a container that runs already (`update`) is its owner's affair.
fn holds_one_process(resources: Option<&LinuxResources>) -> Result<()> {
    let limit = resources.and_then(|r| r.memory().as_ref()).and_then(LinuxMemory::limit).unwrap_or(0);
    if !(1..LEAST_MEMORY).contains(&limit) {
        return Ok(());
    }
    let doing = format!("linux.resources.memory.limit: {limit} bytes cannot hold one process");
    Err(Error::invalid(doing).hint("the limit is in bytes; a small program needs some hundred thousand"))
}
