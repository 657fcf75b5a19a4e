//! Directories of cgroups under construction, and checks for reusing an existing cgroup.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::group::Group;
use crate::error::{Doing, Error, Kind, Result};

/// Called with the directories before they are created.
pub(crate) type Note<'a> = &'a dyn Fn(&BTreeMap<String, PathBuf>) -> Result<()>;

/// The directories created so far; dropping this removes them in reverse order, unless they are kept.
#[derive(Debug, Default)]
pub(crate) struct Made(Vec<PathBuf>);

impl Made {
    /// Creates `path`; `Ok(false)` when it existed.
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
            // A directory that cannot be removed stays: the failure that led here is the one to report.
            let _ = rustix::fs::rmdir(path);
        }
    }
}

/// Refuses an existing cgroup that is in use; an unused one is reused.
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
