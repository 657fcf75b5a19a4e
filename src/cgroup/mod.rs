//! A container's cgroup: planned as data, then created, filled, watched and removed.
//!
//! | file | holds |
//! |---|---|
//! | `cgroup_path` | `linux.cgroupsPath` |
//! | `limits`, `limits_v1`, `limits_v2`, `scale` | `linux.resources` as files and values |
//! | `devices`, `filter` | device rules, and their eBPF program |
//! | `plan` | all of these together |
//! | `make`, `made`, `v1`, `v2`, `systemd` | creating it |
//! | `marker` | empty cgroups for cAdvisor |
//! | `group`, `change`, `freezer`, `oom`, `stats`, `details` | an existing cgroup |
//! | `dir`, `write` | directories, files |
//!
//! v2 is the hot path and written by hand: one mkdir, one open, one write for each limit, two bpf(2) calls. Hybrid
//! hosts count as v1, as with runc, because v1 has the controllers there.
//!
//! Two parts of the crate cgroups-rs (0.5.1) are used: its table of v1 mounts, and its D-Bus client for systemd. The
//! rest is own code, because cgroups-rs differs from runc: it converts shares to a weight linearly, which gives 39 for
//! 1024; cpuset masks go to systemd with their bytes reversed; its `fs` half writes memory and memory+swap in one fixed
//! order and drops the errors of extra attributes; it writes device rules in their order, so that a denial inside a v1
//! wildcard silently has no effect; its v2 half has no rdma, no unified files and no device filter; and its errors do
//! not name the field of the spec.

mod cgroup_path;
mod change;
#[cfg(feature = "node")]
mod details;
pub mod devices;
mod dir;
mod filter;
mod freezer;
mod group;
mod limits;
mod limits_v1;
mod limits_v2;
mod made;
mod make;
#[cfg(feature = "node")]
mod marker;
mod oom;
mod plan;
mod pressure;
mod scale;
mod signal;
mod stats;
mod systemd;
mod v1;
mod v2;
mod write;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Doing, Result};

pub use cgroup_path::CgroupPath;
#[cfg(feature = "node")]
pub use details::{DeviceIo, HugePages};
#[cfg(feature = "node")]
pub(crate) use filter::in_user_namespace;
pub use group::Group;
pub use limits::Limits;
#[cfg(feature = "node")]
pub use marker::Marker;
pub use plan::Plan;
pub use pressure::{Pressure, Stalled};
pub use stats::{Cpu, Memory, Pids, Stats};
pub use write::{Missing, Write};

/// The mount point of the cgroup file systems.
const MOUNT: &str = "/sys/fs/cgroup";

/// The version of the cgroup hierarchy that has the controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A hierarchy for each controller; also on hybrid hosts.
    V1,
    /// One hierarchy for all controllers.
    V2,
}

/// Which program creates cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// This one, by mkdir(2).
    Cgroupfs,
    /// systemd, as transient scopes.
    Systemd,
}

/// The version that this host runs, by the type of the file system mounted at /sys/fs/cgroup.
///
/// # Errors
/// `NotFound` where nothing is mounted there.
pub fn mode() -> Result<Mode> {
    let stat = rustix::fs::statfs(MOUNT)
        .doing(|| format!("inspect {MOUNT}"))
        .map_err(|e| e.hint("mount the cgroup file system there"))?;
    Ok(if is_cgroup2_magic(stat.f_type) { Mode::V2 } else { Mode::V1 })
}

/// Whether this host limits swap: the memory controller has the files for it.
pub fn limits_swap() -> bool {
    static FOUND: AtomicBool = AtomicBool::new(false);
    let found = || match mode() {
        Ok(Mode::V1) => Path::new(MOUNT).join("memory/memory.memsw.limit_in_bytes").exists(),
        // The root cgroup has no limits; another one has them if the controller is enabled there.
        Ok(Mode::V2) => {
            let cgroups = std::fs::read_dir(MOUNT).into_iter().flatten().flatten();
            cgroups.into_iter().any(|entry| entry.path().join("memory.swap.max").exists())
        }
        Err(_) => false,
    };
    // Only success is remembered: the controller may be enabled later.
    FOUND.load(Ordering::Relaxed) || {
        let is_found = found();
        FOUND.store(is_found, Ordering::Relaxed);
        is_found
    }
}

fn is_cgroup2(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| is_cgroup2_magic(stat.f_type))
}

/// `f_type` has different types on different architectures; the constants fit each.
fn is_cgroup2_magic(magic: rustix::fs::FsWord) -> bool {
    magic == 0x6367_7270
}
