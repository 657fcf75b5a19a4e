//! Capabilities and hidden paths of a container that is not privileged.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Capability, LinuxSeccomp};

use crate::error::{Doing, Error, Result};
use crate::launch::toolbox::CapabilityExt;
use crate::linux::private;

/// The most that a seccomp profile has, in bytes.
const MOST: u64 = 4 << 20;

/// What docker and containerd grant.
pub const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Paths that would tell of, or reach, the host.
pub const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that would change the host.
pub const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The default set with what is added and dropped; `ALL` is every one, and `all` of a privileged container.
///
/// # Errors
/// `Invalid` for an unknown name.
pub fn capabilities(add: &[String], drop: &[String], privileged: bool) -> Result<HashSet<Capability>> {
    let mut set: HashSet<Capability> = if privileged { every() } else { CAPABILITIES.into() };
    let is_all = |name: &String| name.eq_ignore_ascii_case("all");
    if add.iter().any(is_all) {
        set = every();
    }
    if drop.iter().any(is_all) {
        set.clear();
    }
    for name in add.iter().filter(|n| !is_all(n)) {
        set.insert(capability(name)?);
    }
    for name in drop.iter().filter(|n| !is_all(n)) {
        set.remove(&capability(name)?);
    }
    Ok(set)
}

/// All that the kernel running now knows.
pub fn every() -> HashSet<Capability> {
    caps::all().into_iter().map(Capability::from_cap).collect()
}

/// A capability by name, with or without CAP_.
///
/// # Errors
/// `Invalid` for an unknown name.
pub fn capability(name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    full.parse::<caps::Capability>().map(Capability::from_cap).map_err(|_| {
        Error::invalid(format!("there is no capability {name:?}"))
            .hint("see capabilities(7); ALL stands for all")
    })
}

/// Reads a seccomp profile in the runtime specification's or docker's form; of docker's only what both share.
///
/// # Errors
/// The file cannot be read or is not a profile.
pub fn seccomp_file(path: &str) -> Result<LinuxSeccomp> {
    let text =
        private::read_named(Path::new(path), MOST).doing(|| format!("read the seccomp profile {path}"))?;
    serde_json::from_slice(&text).doing(|| format!("understand the seccomp profile {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_added_to_and_dropped_from_the_default() {
        let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        let set = capabilities(&list(&["net_admin"]), &list(&["CAP_MKNOD"]), false).unwrap();
        assert!(set.contains(&Capability::NetAdmin) && !set.contains(&Capability::Mknod) && set.len() == 14);
        assert_eq!(
            capabilities(&list(&["kill"]), &list(&["ALL"]), false).unwrap(),
            [Capability::Kill].into()
        );
        assert!(capabilities(&list(&["ALL"]), &[], false).unwrap().len() > 38);
        assert!(capabilities(&list(&["flying"]), &[], false).is_err());
    }
}
