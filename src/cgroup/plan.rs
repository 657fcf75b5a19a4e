//! The plan of a container's cgroup, complete before anything is changed.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxMemory, LinuxResources};

use super::cgroup_path::CgroupPath;
use super::devices::{self, Rule};
use super::limits::Limits;
use super::write::controllers;
use super::{Driver, MOUNT, Mode};
use crate::error::{Error, Result};
use crate::id::ContainerId;

/// No process can live in less memory, in bytes: its kernel stack and page tables alone take half of it.
const MIN_MEMORY: i64 = 128 << 10;

/// A container's cgroup as data: its path, the values to write, the devices to allow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The version of the hierarchy that the plan is for.
    pub mode: Mode,
    /// The path of the directory.
    pub path: CgroupPath,
    /// The limits.
    pub limits: Limits,
    /// The device rules, including the defaults: the last matching rule decides.
    pub devices: Vec<Rule>,
    /// V2: the controllers to enable: first those that a limit needs, then optional ones ([`Plan::accounted`]).
    pub controllers: Vec<String>,
    /// V1: the same rules as files and values.
    pub v1_devices: Vec<(&'static str, String)>,
    root: PathBuf,
}

impl Plan {
    /// Converts and checks the spec; changes nothing on the host.
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

    /// V2: also enables the controllers that only account, so that [`super::Group::stats`] is complete for a container
    /// without limits. A kubelet's parent cgroups have them enabled already; for a lone container each costs time at
    /// creation.
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

    /// Tolerates that an optional controller is absent: for pods, whose kubelet does not look.
    #[must_use]
    pub fn tolerant(mut self) -> Self {
        self.limits = self.limits.tolerant();
        self
    }

    /// Fields of the spec that this host's cgroup version does not have, worth a warning.
    pub fn ignored(&self) -> &[&'static str] {
        &self.limits.ignored
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

/// Refuses too low a limit, because its effect would be random: v1 charges in batches, so that the payload is killed
/// before its first instruction or shortly after. `update` accepts such a limit for a running container: its owner
/// asked for it.
fn holds_one_process(resources: Option<&LinuxResources>) -> Result<()> {
    let limit = resources.and_then(|r| r.memory().as_ref()).and_then(LinuxMemory::limit).unwrap_or(0);
    if !(1..MIN_MEMORY).contains(&limit) {
        return Ok(());
    }
    let doing = format!("linux.resources.memory.limit: {limit} bytes cannot hold one process");
    Err(Error::invalid(doing).hint("the limit is in bytes; a small program needs some hundred thousand"))
}
