//! Changing the limits of an existing cgroup, and removing it.

use std::os::fd::AsFd;
use std::path::Path;

use oci_spec::runtime::LinuxResources;

use super::group::Group;
use super::limits::Limits;
use super::write::{controllers, write_all};
use super::{Mode, devices, dir, filter, freezer, systemd, v1, v2};
use crate::error::Result;

impl Group {
    /// Sets the limits that `resources` names and leaves the others unchanged. Device rules, if there are any, replace
    /// those in force. When the kernel refuses a limit, the limits written before it stay set.
    ///
    /// # Errors
    /// Those of [`Plan::new`] for a bad value, and of the write, naming the field.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.apply_limits(resources, &Limits::new(resources, self.mode())?)
    }

    /// As [`Group::update`], but limits of optional controllers that are absent are left out.
    ///
    /// # Errors
    /// As [`Group::update`].
    pub fn update_tolerantly(&self, resources: &LinuxResources) -> Result<()> {
        self.apply_limits(resources, &Limits::new(resources, self.mode())?.tolerant())
    }

    fn apply_limits(&self, resources: &LinuxResources, limits: &Limits) -> Result<()> {
        let spec = resources.devices().as_deref().unwrap_or_default();
        let mut rules = devices::from_spec(spec)?;
        rules.extend(devices::DEFAULT_ALLOWED);
        match self.mode() {
            Mode::V1 => {
                let writes = devices::v1_writes(&rules)?;
                systemd::update(self, limits)?;
                self.write_v1(&limits.writes)?;
                if spec.is_empty() { Ok(()) } else { v1::write_devices(self, &writes) }
            }
            Mode::V2 => {
                let dir = self.dir()?;
                v2::check_usage(dir, limits.usage_below)?;
                systemd::update(self, limits)?;
                let missing: Vec<String> = controllers(&limits.writes)
                    .into_iter()
                    .filter(|name| !dir.has_controller(name))
                    .collect();
                if let Ok(below) = dir.path().strip_prefix(self.root()) {
                    v2::enable(self.root(), below, &missing);
                }
                write_all(&limits.writes, |_| Some(dir))?;
                if spec.is_empty() { Ok(()) } else { filter::apply(dir.as_fd(), &rules, true) }
            }
        }
    }

    /// Removes the group with all groups inside it; a missing group is no error. While it is busy the removal is
    /// retried for about a second.
    ///
    /// # Errors
    /// `Busy` when processes are still in it.
    pub fn remove(&self) -> Result<()> {
        if self.waiting().is_some() {
            return Ok(());
        }
        let stopped = systemd::stop(self);
        let wait: &dyn Fn(&Path, u32) = match self.mode() {
            Mode::V1 => &|_, tries| dir::pause(tries),
            Mode::V2 => &freezer::wait_unpopulated,
        };
        // Every directory is tried even if one stays; the first failure is reported.
        let results: Vec<_> = self.paths().values().map(|path| dir::remove(path, wait)).collect();
        results.into_iter().collect::<Result<()>>().and(stopped)
    }
}
