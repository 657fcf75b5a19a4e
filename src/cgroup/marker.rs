//! Empty cgroups that hold no process. cAdvisor finds pods by the names of cgroups, and a pod without a pause process has
//! no cgroup of its own otherwise.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Linux;
use rustix::io::Errno;

use super::plan::Plan;
use super::{Driver, Mode, mode, v1};
use crate::error::{Doing, Result};
use crate::id::ContainerId;

/// Hierarchies of v1 without statistics: cAdvisor does not look there.
const UNSEEN: [&str; 5] = ["", "name=systemd", "freezer", "net_cls", "net_prio"];

/// An empty cgroup, in each hierarchy that has statistics.
#[derive(Debug)]
pub struct Marker(Vec<PathBuf>);

impl Marker {
    /// The marker at `linux.cgroupsPath` `path`; nothing is created yet. With the systemd driver its name is that of a
    /// scope, but systemd does not know it: it creates no scope without a process.
    ///
    /// # Errors
    /// `Invalid` for a path that is none, or the hierarchies cannot be found.
    pub fn new(path: &Path, id: &ContainerId, driver: Driver) -> Result<Self> {
        let mut linux = Linux::default();
        linux.set_cgroups_path(Some(path.to_owned())).set_resources(None);
        let plan = Plan::new(Some(&linux), id, driver, mode()?)?;
        let paths = match plan.mode {
            Mode::V1 => v1::paths(&plan)?,
            Mode::V2 => {
                BTreeMap::from([(String::new(), plan.root().join(plan.path.below_root(Path::new("/"))?))])
            }
        };
        let is_seen = |name: &str| plan.mode == Mode::V2 || !UNSEEN.contains(&name);
        // Controllers that are mounted together share a directory.
        let mut paths: Vec<_> =
            paths.into_iter().filter(|(name, _)| is_seen(name)).map(|(_, path)| path).collect();
        paths.sort();
        paths.dedup();
        Ok(Self(paths))
    }

    /// Creates it. The cgroup that it is in must exist.
    ///
    /// # Errors
    /// A directory cannot be created; the others are removed then.
    pub fn make(&self) -> Result<()> {
        for path in &self.0 {
            match rustix::fs::mkdir(path, rustix::fs::Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => {
                    self.remove();
                    return Err(errno).doing(|| format!("make cgroup {}", path.display()));
                }
            }
        }
        Ok(())
    }

    /// Removes it. One that is not there is no error; nor is one that somebody put a process into, which stays.
    pub fn remove(&self) {
        for path in &self.0 {
            let _ = rustix::fs::rmdir(path);
        }
    }
}
