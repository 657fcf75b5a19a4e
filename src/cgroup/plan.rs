//! What a container's cgroup shall be, worked out before anything is touched, and making it so.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Linux, LinuxMemory, LinuxResources};

use super::devices::{self, Rule};
use super::group::Group;
use super::limits::Limits;
use super::place::Place;
use super::{Driver, MOUNT, Mode, v1, v2};
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;

/// Less than this no process lives on: its kernel stack and page tables alone take half of it.
const LEAST_MEMORY: i64 = 128 << 10;

/// A container's cgroup as data: where it goes, what is written there, which devices it lets through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The version of the hierarchy it is for.
    pub mode: Mode,
    /// Where the directory goes.
    pub place: Place,
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
            Mode::V2 => v2::controllers(&limits.writes),
        };
        let place = Place::new(path, id, driver)?;
        Ok(Self { mode, place, limits, devices: rules, controllers, v1_devices, root: PathBuf::from(MOUNT) })
    }

    /// V2: also asks for the controllers that only count, so that [`Group::stats`] is complete for a container
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

    /// Makes the cgroup with its limits and its device filter. With the systemd driver only [`Group::attach`] does,
    /// as systemd makes no scope without a process.
    ///
    /// # Errors
    /// `Busy` when the cgroup exists and has processes, `WrongState` when it is frozen; a failed limit names its
    /// field. Directories made on the way are removed again.
    pub fn apply(&self) -> Result<Group> {
        self.apply_after(&|_| Ok(()))
    }

    /// [`Plan::apply`], with a word to `note` on the directories ([`Group::paths`]) before the first is made: so that
    /// they are found even if we are killed right then. Scopes are systemd's, which removes them by itself.
    ///
    /// # Errors
    /// Those of [`Plan::apply`] and of `note`.
    pub fn apply_after(&self, note: Note<'_>) -> Result<Group> {
        match (self.mode, &self.place) {
            (_, Place::Scope { .. }) => Group::pending(self.clone()),
            (Mode::V1, _) => v1::create(self, note),
            (Mode::V2, _) => v2::create(self, &self.root, note),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }
}

/// Is told of the directories that will be made.
pub(crate) type Note<'a> = &'a dyn Fn(&BTreeMap<String, PathBuf>) -> Result<()>;

/// Directories made so far; removed again, last first, unless kept.
#[derive(Debug, Default)]
pub(crate) struct Made(Vec<PathBuf>);

impl Made {
    /// Makes `path`; `Ok(false)` when it was there.
    pub(crate) fn dir(&mut self, path: &Path) -> Result<bool> {
        match rustix::fs::mkdir(path, rustix::fs::Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                self.0.push(path.to_owned());
                Ok(true)
            }
            Err(rustix::io::Errno::EXIST) => Ok(false),
            Err(errno) => Err(errno).doing(|| format!("make cgroup {}", path.display())),
        }
    }

    pub(crate) fn keep(mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // Nothing more can be done about one that stays: the failure that led here is what gets reported.
            let _ = rustix::fs::rmdir(path);
        }
    }
}

/// A cgroup that was there before us: taken over when nobody uses it.
pub(crate) fn refuse_used(group: &Group) -> Result<()> {
    let shown = || group.paths().values().next().map(|p| p.display().to_string()).unwrap_or_default();
    let count = group.pids()?.len();
    if count > 0 {
        let doing = format!("cgroup {} is not empty: {count} processes are in it", shown());
        return Err(Error::new(Kind::Busy, doing).hint("another container or service uses linux.cgroupsPath"));
    }
    if group.is_frozen()? {
        let doing = format!("cgroup {} exists and is frozen", shown());
        return Err(Error::new(Kind::WrongState, doing).hint("thaw it, or remove it with rmdir"));
    }
    Ok(())
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
