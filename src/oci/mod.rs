//! The OCI runtime verbs: one file each. SPEC(runtime 1.2 #operations)

pub mod bundle;
pub mod create;
pub mod delete;
pub mod events;
pub mod exec;
pub mod foreground;
pub mod freeze;
pub mod kill;
pub mod lifecycle;
pub mod ps;
pub mod run;
pub mod start;
pub mod state;
pub mod stop;

use std::path::PathBuf;

/// The directories and options that all verbs share.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// The directory with the containers' state, one subdirectory per container (`--root`).
    pub root: PathBuf,
    /// The directory of caches, which may be removed at any time.
    pub cache: PathBuf,
    /// Ask systemd for scopes (`--systemd-cgroup`).
    pub systemd_cgroup: bool,
}

impl Runtime {
    /// Compiles a seccomp profile, or reads it compiled from the cache.
    ///
    /// # Errors
    /// The profile is invalid.
    fn compile(
        &self,
        profile: Option<&oci_spec::runtime::LinuxSeccomp>,
    ) -> crate::error::Result<Option<crate::seccomp::Program>> {
        let Some(profile) = profile else { return Ok(None) };
        let cache = self.cache.join("seccomp");
        // A cache that cannot be used only costs time, so the container still starts.
        let _ = crate::linux::private::make_dirs(&cache, crate::linux::private::DIR);
        crate::seccomp::compile_cached(profile, Some(&cache))
    }
}
