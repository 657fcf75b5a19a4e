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

impl Runtime {
    /// Compiles a seccomp profile, or finds it compiled in the cache.
    ///
    /// # Errors
    /// The profile is not valid.
    fn compile(
        &self,
        profile: Option<&oci_spec::runtime::LinuxSeccomp>,
    ) -> crate::error::Result<Option<crate::seccomp::Program>> {
        let Some(profile) = profile else { return Ok(None) };
        let cache = self.cache.join("seccomp");
        // Without a cache it takes a little longer: no reason not to start a container.
        let _ = crate::linux::private::make_dirs(&cache, crate::linux::private::DIR);
        crate::seccomp::compile_cached(profile, Some(&cache))
    }
}
