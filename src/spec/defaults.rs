//! The defaults of a container: one table, for `launch`, `spec` and pods.

use std::path::PathBuf;

use oci_spec::runtime::{Capability, LinuxNamespaceType, Mount};

use super::mounts::mount;

/// The PATH of containers whose image sets none.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The default size of /dev/shm in bytes: docker's and containerd's 64 MiB.
pub const SHM_SIZE: i64 = 64 << 20;

/// The default capabilities, the same as docker's and containerd's.
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

/// Paths that show or affect the host, and are masked.
const MASKED_PATHS: [&str; 12] = [
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

/// Paths through which writes would change the host, and which are read-only.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The namespaces of a container that shares none.
pub const NAMESPACES: [LinuxNamespaceType; 6] = [
    LinuxNamespaceType::Pid,
    LinuxNamespaceType::Ipc,
    LinuxNamespaceType::Uts,
    LinuxNamespaceType::Mount,
    LinuxNamespaceType::Cgroup,
    LinuxNamespaceType::Network,
];

/// The paths masked in a container that is not privileged.
pub fn masked_paths() -> Vec<PathBuf> {
    MASKED_PATHS.map(PathBuf::from).into()
}

/// The paths that are read-only in a container that is not privileged.
pub fn readonly_paths() -> Vec<PathBuf> {
    READONLY_PATHS.map(PathBuf::from).into()
}

/// The kernel's filesystems, mounted as docker and containerd do. `writable` makes /sys writable for the container.
pub(super) fn mounts(shm_size: i64, bind_sys: bool, writable: bool) -> Vec<Mount> {
    let access = if writable { "rw" } else { "ro" };
    let shm_size = format!("size={shm_size}");
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let sys = match bind_sys {
        true => mount("/sys", "bind", "/sys", &["rbind", "nosuid", "noexec", "nodev", access]),
        false => mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access]),
    };
    vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", "devpts", &pts),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm_size]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        sys,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access]),
    ]
}
