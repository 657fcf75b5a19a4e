//! The configuration to start from: what runc's `spec` writes.

use std::collections::HashSet;
use std::path::PathBuf;

use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilities, LinuxDeviceCgroup, LinuxIdMapping, LinuxIdMappingBuilder,
    LinuxNamespace, LinuxNamespaceType, LinuxResources, Mount, PosixRlimitBuilder, PosixRlimitType, Process,
    Root, Spec, User,
};

/// Paths hidden from a container.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/sys/firmware",
    "/proc/scsi",
    "/sys/devices/virtual/powercap",
];

/// A shell in a read-only `rootfs` with few rights.
pub fn spec() -> Spec {
    let mut spec = Spec::default();
    let mut root = Root::default();
    root.set_path(PathBuf::from("rootfs")).set_readonly(Some(true));
    spec.set_version(crate::record::OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_process(Some(process()))
        .set_mounts(Some(mounts()))
        .set_linux(Some(linux()));
    spec.set_hostname(Some("coracle".to_owned()));
    spec
}

fn process() -> Process {
    let capabilities: HashSet<Capability> =
        [Capability::AuditWrite, Capability::Kill, Capability::NetBindService].into();
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(capabilities.clone()))
        .set_effective(Some(capabilities.clone()))
        .set_permitted(Some(capabilities))
        .set_inheritable(None)
        .set_ambient(None);
    let limit = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(1024_u64)
        .hard(1024_u64)
        .build();
    let mut process = Process::default();
    process
        .set_terminal(Some(true))
        .set_user(User::default())
        .set_args(Some(vec!["sh".to_owned()]))
        .set_env(Some(vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            "TERM=xterm".to_owned(),
        ]))
        .set_cwd(PathBuf::from("/"))
        .set_capabilities(Some(sets))
        .set_rlimits(limit.ok().map(|limit| vec![limit]))
        .set_no_new_privileges(Some(true));
    process
}

fn mounts() -> Vec<Mount> {
    const TABLE: [(&str, &str, &str, &str); 7] = [
        ("/proc", "proc", "proc", ""),
        ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=65536k"),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev,ro"),
        ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime,ro"),
    ];
    TABLE.into_iter().map(|(target, kind, source, options)| mount(target, kind, source, options)).collect()
}

fn mount(target: &str, kind: &str, source: &str, options: &str) -> Mount {
    let mut mount = Mount::default();
    let options: Vec<String> = options.split(',').filter(|o| !o.is_empty()).map(str::to_owned).collect();
    mount
        .set_destination(PathBuf::from(target))
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(PathBuf::from(source)))
        .set_options((!options.is_empty()).then_some(options));
    mount
}

fn namespace(kind: LinuxNamespaceType) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(None);
    namespace
}

fn linux() -> Linux {
    use LinuxNamespaceType as Kind;
    let strings = |list: &[&str]| Some(list.iter().map(|s| (*s).to_owned()).collect());
    let mut all = LinuxDeviceCgroup::default();
    all.set_allow(false).set_access(Some("rwm".to_owned()));
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(vec![all]));
    let kinds = [Kind::Pid, Kind::Network, Kind::Ipc, Kind::Uts, Kind::Mount, Kind::Cgroup];
    let mut linux = Linux::default();
    linux
        .set_resources(Some(resources))
        .set_namespaces(Some(kinds.map(namespace).into()))
        .set_masked_paths(strings(&MASKED))
        .set_readonly_paths(strings(&[
            "/proc/bus",
            "/proc/fs",
            "/proc/irq",
            "/proc/sys",
            "/proc/sysrq-trigger",
        ]));
    linux
}

/// What a user without privileges can have: one id mapped, no network namespace, no limits, no group for terminals.
pub fn make_rootless(spec: &mut Spec) {
    let own = |id: u32| -> Option<Vec<LinuxIdMapping>> {
        LinuxIdMappingBuilder::default()
            .container_id(0_u32)
            .host_id(id)
            .size(1_u32)
            .build()
            .ok()
            .map(|m| vec![m])
    };
    if let Some(linux) = spec.linux_mut() {
        let mut kinds = linux.namespaces().clone().unwrap_or_default();
        kinds.retain(|n| n.typ() != LinuxNamespaceType::Network);
        kinds.push(namespace(LinuxNamespaceType::User));
        linux.set_namespaces(Some(kinds)).set_resources(None);
        linux.set_uid_mappings(own(rustix::process::geteuid().as_raw()));
        linux.set_gid_mappings(own(rustix::process::getegid().as_raw()));
    }
    for entry in spec.mounts_mut().iter_mut().flatten() {
        if entry.destination().as_os_str() == "/sys" {
            *entry = mount("/sys", "none", "/sys", "rbind,nosuid,noexec,nodev,ro");
        }
        if let Some(options) = entry.options_mut() {
            options.retain(|option| !option.starts_with("gid="));
        }
    }
}
