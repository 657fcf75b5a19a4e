//! Creating a planned cgroup, and moving processes in.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::cgroup_path::CgroupPath;
use super::group::{Group, enter};
use super::made::Note;
use super::plan::Plan;
use super::{Mode, systemd, v1, v2};
use crate::error::Result;

impl Plan {
    /// Creates the cgroup with its limits and its device filter. With the systemd driver [`Group::attach`] does this,
    /// because systemd creates no scope without a process.
    ///
    /// # Errors
    /// `Busy` when the cgroup exists and has processes, `WrongState` when it is frozen; a failed limit names its field.
    /// Directories created before the failure are removed.
    pub fn apply(&self) -> Result<Group> {
        self.apply_after(&|_| Ok(()))
    }

    /// Like [`Plan::apply`], but first calls `note` with the directories ([`Group::paths`]), before any is created, so
    /// that they can be found even if this process is killed right then. Scopes are not noted: systemd removes them by
    /// itself.
    ///
    /// # Errors
    /// Those of [`Plan::apply`] and of `note`.
    pub fn apply_after(&self, note: Note<'_>) -> Result<Group> {
        match (self.mode, &self.path) {
            (_, CgroupPath::Scope { .. }) => Ok(Group::pending(self.clone(), self.paths_of_scope()?)),
            (Mode::V1, _) => v1::create(self, note),
            (Mode::V2, _) => v2::create(self, self.root(), note),
        }
    }

    fn paths_of_scope(&self) -> Result<BTreeMap<String, PathBuf>> {
        match self.mode {
            Mode::V1 => v1::paths(self),
            Mode::V2 => {
                let path = self.root().join(self.path.below_root(Path::new("/"))?);
                Ok(BTreeMap::from([(String::new(), path)]))
            }
        }
    }
}

impl Group {
    /// Moves a process with all its threads in: one write on v2, one for each hierarchy on v1. With the systemd driver
    /// the first process creates the scope.
    ///
    /// # Errors
    /// `Busy` when the cgroup enables controllers for children and so can hold no process (v2), `NotFound` when the
    /// process or cgroup is missing.
    pub fn attach(&self, pid: i32) -> Result<()> {
        if let Some(plan) = self.waiting() {
            systemd::start(plan, self, pid)?;
            self.set_started();
            return Ok(());
        }
        let mut paths: Vec<_> = self.paths().iter().collect();
        // Entering a cpuset can be refused, so it is done first.
        paths.sort_by_key(|(controller, _)| *controller != "cpuset");
        paths.into_iter().try_for_each(|(_, path)| enter(path, pid))
    }
}
