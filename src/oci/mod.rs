//! The OCI runtime verbs: one file each. SPEC(runtime 1.2 #operations)

mod attach;
pub mod bundle;
pub mod create;
pub mod delete;
pub mod exec;
pub mod kill;
pub mod lifecycle;
pub mod proc_stat;
pub mod profile;
pub mod run;
pub mod start;
pub mod state;

use std::path::PathBuf;

/// Where and how the verbs work.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// One directory per container (`--root`).
    pub root: PathBuf,
    /// Caches that may vanish at any time.
    pub cache: PathBuf,
    /// Ask systemd for scopes (`--systemd-cgroup`).
    pub systemd_cgroup: bool,
}
