//! From an image's configuration and a user's wishes to a runtime configuration, as docker and podman would make it.
//!
//! Pure: what has to be looked up in the container's root (the user, `user`) or made on the host (files to bind) is
//! handed in. An image's labels never become annotations: those steer runtimes and hooks (CVE-2026-53488).

pub mod amounts;
pub mod command;
pub mod devices;
pub mod mounts;
pub mod security;
pub mod user;
pub mod volumes;

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilities, LinuxCpu, LinuxDevice, LinuxDeviceCgroup, LinuxMemory,
    LinuxNamespace, LinuxNamespaceType, LinuxPids, LinuxResources, LinuxSeccomp, Mount, PosixRlimit, Process,
    Root, Spec, User,
};

use crate::error::{Error, Result};

/// What the user asks for, parsed; what is not said is the image's or the default.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Arguments after the image.
    pub command: Vec<String>,
    /// `--entrypoint`; an empty one clears the image's.
    pub entrypoint: Option<String>,
    /// `-e` and `--env-file`, resolved to `KEY=VALUE`.
    pub env: Vec<String>,
    /// `-w`
    pub workdir: Option<PathBuf>,
    /// `--hostname`
    pub hostname: Option<String>,
    /// `-t`
    pub terminal: bool,
    /// Bind mounts, tmpfs and volumes, in order.
    pub mounts: Vec<Mount>,
    /// `--read-only`
    pub read_only: bool,
    /// `--privileged`
    pub privileged: bool,
    /// `--net host`
    pub host_network: bool,
    /// The capabilities to run with.
    pub capabilities: HashSet<Capability>,
    /// The seccomp profile; none when unconfined.
    pub seccomp: Option<LinuxSeccomp>,
    /// `--security-opt no-new-privileges`
    pub no_new_privileges: bool,
    /// `--security-opt apparmor=`
    pub apparmor: Option<String>,
    /// `--security-opt label=`
    pub selinux_label: Option<String>,
    /// `--security-opt systempaths=unconfined`
    pub unmasked: bool,
    /// Limits on memory, in bytes.
    pub memory: LinuxMemory,
    /// Limits on processor time.
    pub cpu: LinuxCpu,
    /// `--pids-limit`
    pub pids_limit: Option<i64>,
    /// `--ulimit`
    pub ulimits: Vec<PosixRlimit>,
    /// `--device`, found on the host.
    pub devices: Vec<(LinuxDevice, String)>,
    /// `--shm-size` in bytes.
    pub shm_size: Option<i64>,
    /// `--sysctl`
    pub sysctls: HashMap<String, String>,
    /// `--annotation`
    pub annotations: HashMap<String, String>,
    /// `--oom-score-adj`
    pub oom_score_adj: Option<i32>,
    /// `--cgroup-parent`
    pub cgroup_parent: Option<PathBuf>,
    /// `--group-add`, resolved.
    pub extra_groups: Vec<u32>,
}

/// What was made or looked up for this container.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The container's id.
    pub id: String,
    /// The mounted root.
    pub root: PathBuf,
    /// The user to run as.
    pub user: user::Resolved,
    /// Files to bind: host path, path inside.
    pub files: Vec<(PathBuf, PathBuf)>,
}

/// The runtime configuration.
///
/// # Errors
/// `Invalid` when there is no command, or wishes contradict each other.
pub fn spec(wishes: &Wishes, image: &ImageConfig, place: &Place) -> Result<Spec> {
    let mut spec = Spec::default();
    let mut root = Root::default();
    root.set_path(place.root.clone()).set_readonly(Some(wishes.read_only));
    let hostname = wishes.hostname.clone().unwrap_or_else(|| short_name(&place.id));
    spec.set_version(crate::record::OCI_VERSION.to_owned())
        .set_root(Some(root))
        .set_process(Some(process(wishes, image, place, &hostname)?))
        .set_mounts(Some(mounts::all(wishes, place)?))
        .set_linux(Some(linux(wishes, place)))
        .set_annotations(annotations(wishes, image));
    spec.set_hostname(Some(hostname));
    Ok(spec)
}

/// The user's, and the signal that stops the image's program.
fn annotations(wishes: &Wishes, image: &ImageConfig) -> Option<HashMap<String, String>> {
    let mut all = wishes.annotations.clone();
    if let Some(signal) = image.stop_signal() {
        all.entry(super::stop::STOP_SIGNAL.to_owned()).or_insert_with(|| signal.clone());
    }
    (!all.is_empty()).then_some(all)
}

/// docker's host name: the first twelve characters of the id.
pub fn short_name(id: &str) -> String {
    id.chars().take(12).collect()
}

fn process(wishes: &Wishes, image: &ImageConfig, place: &Place, hostname: &str) -> Result<Process> {
    let mut process = Process::default();
    let workdir = wishes.workdir.clone().or_else(|| image.working_dir().as_ref().map(PathBuf::from));
    let workdir = workdir.filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| PathBuf::from("/"));
    if !workdir.is_absolute() {
        return Err(Error::invalid(format!("working directory {workdir:?} is not an absolute path")));
    }
    // The main group is among the others too: else a program that drops it would gain by files which that group is
    // denied (CVE-2022-2989, CVE-2023-25173).
    let mut groups = vec![place.user.gid];
    for group in place.user.groups.iter().chain(&wishes.extra_groups) {
        if !groups.contains(group) {
            groups.push(*group);
        }
    }
    let mut user = User::default();
    user.set_uid(place.user.uid).set_gid(place.user.gid).set_additional_gids(Some(groups));
    let all = wishes.capabilities.clone();
    let mut capabilities = LinuxCapabilities::default();
    let root = place.user.uid == 0;
    let for_root = |set: &HashSet<Capability>| Some(if root { set.clone() } else { Default::default() });
    capabilities
        .set_bounding(Some(all.clone()))
        .set_effective(for_root(&all))
        .set_permitted(for_root(&all))
        .set_inheritable(Some(Default::default()))
        .set_ambient(Some(Default::default()));
    process
        .set_terminal(Some(wishes.terminal))
        .set_user(user)
        .set_args(Some(command::arguments(wishes, image)?))
        .set_env(Some(command::environment(wishes, image, &place.user.home, hostname)))
        .set_cwd(workdir)
        .set_capabilities(Some(capabilities))
        .set_no_new_privileges(Some(wishes.no_new_privileges))
        .set_rlimits((!wishes.ulimits.is_empty()).then(|| wishes.ulimits.clone()))
        .set_oom_score_adj(wishes.oom_score_adj)
        .set_apparmor_profile(wishes.apparmor.clone())
        .set_selinux_label(wishes.selinux_label.clone());
    Ok(process)
}

fn linux(wishes: &Wishes, place: &Place) -> Linux {
    let mut linux = Linux::default();
    let masked = !wishes.privileged && !wishes.unmasked;
    let strings = |list: &[&str]| masked.then(|| list.iter().map(|s| (*s).to_owned()).collect());
    let nodes: Vec<LinuxDevice> = wishes.devices.iter().map(|(node, _)| node.clone()).collect();
    let parent = wishes.cgroup_parent.clone().unwrap_or_else(|| PathBuf::from("/coracle"));
    linux
        .set_namespaces(Some(namespaces(wishes)))
        .set_masked_paths(strings(&security::MASKED))
        .set_readonly_paths(strings(&security::READ_ONLY))
        .set_seccomp(wishes.seccomp.clone().filter(|_| !wishes.privileged))
        .set_devices((!nodes.is_empty()).then_some(nodes))
        .set_sysctl((!wishes.sysctls.is_empty()).then(|| wishes.sysctls.clone()))
        .set_cgroups_path(Some(parent.join(&place.id)))
        .set_resources(Some(resources(wishes)));
    linux
}

fn namespaces(wishes: &Wishes) -> Vec<LinuxNamespace> {
    use LinuxNamespaceType as Kind;
    let mut kinds = vec![Kind::Pid, Kind::Ipc, Kind::Uts, Kind::Mount, Kind::Cgroup];
    if !wishes.host_network {
        kinds.push(Kind::Network);
    }
    kinds
        .into_iter()
        .map(|kind| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(kind).set_path(None);
            namespace
        })
        .collect()
}

fn resources(wishes: &Wishes) -> LinuxResources {
    let mut resources = LinuxResources::default();
    let mut all = LinuxDeviceCgroup::default();
    all.set_allow(wishes.privileged).set_access(Some("rwm".to_owned()));
    let mut rules = vec![all];
    for (node, access) in &wishes.devices {
        let mut rule = LinuxDeviceCgroup::from(node);
        rule.set_access(Some(access.clone()));
        rules.push(rule);
    }
    resources.set_devices(Some(rules));
    if wishes.memory != LinuxMemory::default() {
        resources.set_memory(Some(wishes.memory));
    }
    if wishes.cpu != LinuxCpu::default() {
        resources.set_cpu(Some(wishes.cpu.clone()));
    }
    if let Some(limit) = wishes.pids_limit {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        resources.set_pids(Some(pids));
    }
    resources
}
