//! The command line: global options here, one file per verb beside it.

pub mod image;

use std::path::PathBuf;
use std::process::ExitCode;

/// What every verb is told besides its own arguments.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where the OCI verbs keep one directory per container (`--root`, default `/run/coracle/containers`).
    pub root: PathBuf,
    /// The image store and the writable layers (`--store`, default `/var/lib/coracle`).
    pub store: PathBuf,
    /// Caches that may vanish at any time, such as compiled seccomp programs (`/run/coracle/cache`).
    pub cache: PathBuf,
    /// Ask systemd for a scope instead of making cgroups ourselves (`--systemd-cgroup`).
    pub systemd_cgroup: bool,
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
