//! A container's cgroup: planned as data, then made, filled, watched and removed.
//!
//! | file | holds |
//! |---|---|
//! | `cgroup_path` | `linux.cgroupsPath`: where it goes |
//! | `limits`, `limits_v1`, `limits_v2`, `scale` | `linux.resources` as files and values |
//! | `devices`, `filter` | device rules, and the same as eBPF |
//! | `plan` | all of it together |
//! | `make`, `made`, `v1`, `v2`, `systemd` | making it |
//! | `group`, `change`, `freezer`, `oom`, `stats` | one that exists |
//! | `dir`, `write` | directories, files |
//!
//! v2 is the hot path and written by hand: one mkdir, one open, a write for each limit, two bpf(2) calls. Hybrid hosts
//! count as v1, as with runc: the controllers are there.
//!
//! Of the crate cgroups-rs (0.5.1) two parts serve here: its table of v1 mounts, and its D-Bus client for systemd.
//! The rest has own code because it is not what runc does: shares become a weight by the straight line that gave 39
//! for 1024; cpuset masks go to systemd with their bytes reversed; memory and memory+swap are written in one fixed
//! order in its `fs` half, with errors of extra attributes dropped; device rules are written as they come, so that a
//! denial inside a v1 wildcard is silently without effect; the v2 half knows no rdma, no unified files and no device
//! filter; and no error says which field of the spec it comes from.

mod cgroup_path;
mod change;
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

use crate::error::{Doing, Result};

pub use cgroup_path::CgroupPath;
pub use group::Group;
pub use limits::Limits;
pub use plan::Plan;
pub use pressure::{Pressure, Stalled};
pub use stats::{Cpu, Memory, Pids, Stats};
pub use write::{Missing, Write};

/// Where cgroups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";

/// The version of the cgroup hierarchy that has the controllers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// A hierarchy for each controller; hybrid hosts, too.
    V1,
    /// One hierarchy for all.
    V2,
}

/// Who makes cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// We do.
    Cgroupfs,
    /// systemd does, as transient scopes.
    Systemd,
}

/// Which version this host runs, by the file system that /sys/fs/cgroup is.
///
/// # Errors
/// `NotFound` where nothing is mounted there.
pub fn mode() -> Result<Mode> {
    let stat = rustix::fs::statfs(MOUNT)
        .doing(|| format!("look at {MOUNT}"))
        .map_err(|e| e.hint("mount the cgroup file system there"))?;
    Ok(if is_cgroup2_magic(stat.f_type) { Mode::V2 } else { Mode::V1 })
}

fn is_cgroup2(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| is_cgroup2_magic(stat.f_type))
}

/// The type of `f_type` differs between architectures; the numbers fit each.
fn is_cgroup2_magic(magic: rustix::fs::FsWord) -> bool {
    magic == 0x6367_7270
}
