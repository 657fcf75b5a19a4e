//! The request for a container: the flags of `launch` and the messages of the CRI are both converted to it.
//!
//! A request is data. It names files, users, devices and profiles, but none of them has been looked up;
//! [`Resolved`](super::Resolved) has what was found in the image and on the host.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Capability, LinuxIdMapping, LinuxResources, PosixRlimit};
use serde::{Deserialize, Serialize};

/// A request for a container. Fields left at their default take their value from the image or from
/// [`super::defaults`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ContainerRequest {
    /// The program, its arguments and environment.
    pub process: ProcessRequest,
    /// The user and main group of the process.
    pub user: UserRequest,
    /// The other groups of the process.
    pub groups: GroupsRequest,
    /// The host name to set in a UTS namespace of the container's own; none keeps the namespace's name.
    pub hostname: Option<String>,
    /// Whether the container is privileged: it has all rights of the host's root.
    pub privileged: bool,
    /// Whether the root filesystem is read-only.
    pub read_only_root: bool,
    /// Bind mounts, tmpfs and images, in the order in which they are mounted.
    pub mounts: Vec<MountRequest>,
    /// Size of the container's own /dev/shm in bytes.
    pub shm_size: Option<i64>,
    /// Whether the host's /sys is bind-mounted instead of a new sysfs. A new one shows the network namespace, and
    /// only the owner of that namespace can mount it.
    pub bind_sys: bool,
    /// Devices of the host.
    pub devices: Vec<DeviceRequest>,
    /// Names of CDI devices, `vendor/class=name`, each once.
    pub cdi_devices: Vec<String>,
    /// The scopes of its namespaces.
    pub namespaces: NamespaceScopes,
    /// The capabilities of its process.
    pub capabilities: Capabilities,
    /// The seccomp(2) profile.
    pub seccomp: Profile,
    /// The apparmor(7) profile.
    pub apparmor: Profile,
    /// The SELinux label of its process.
    pub selinux_label: Option<String>,
    /// Paths to mask.
    pub masked_paths: Vec<PathBuf>,
    /// Paths to make read-only.
    pub readonly_paths: Vec<PathBuf>,
    /// The limits of its cgroup, without rules for devices: those follow from the devices.
    pub resources: LinuxResources,
    /// The parent of its cgroup.
    pub cgroup_parent: Option<PathBuf>,
    /// Sysctls of its own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Annotations of the runtime configuration. They never include an image's labels, because annotations control
    /// runtimes and hooks (CVE-2026-53488).
    pub annotations: BTreeMap<String, String>,
}

/// The process of a container.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProcessRequest {
    /// Replaces the image's entrypoint and drops its command.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command unless empty.
    pub args: Vec<String>,
    /// Environment variables, in order; the last of a name counts.
    pub env: Vec<Variable>,
    /// The working directory; none means the image's.
    pub working_dir: Option<PathBuf>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether execve(2) cannot grant privileges (no_new_privs).
    pub no_new_privileges: bool,
    /// Resource limits, setrlimit(2).
    pub rlimits: Vec<PosixRlimit>,
    /// The OOM score adjustment, proc_pid_oom_score_adj(5); none inherits the runtime's.
    pub oom_score_adj: Option<i32>,
}

/// An environment variable. The value need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// Its name, without `=`.
    pub name: String,
    /// Its value, without NUL.
    pub value: Vec<u8>,
}

/// A user or group, by number or by its name in the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By name, to be looked up in the image's /etc/passwd or /etc/group.
    Name(String),
}

/// The user of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum UserRequest {
    /// The user and group that the image names; else root.
    #[default]
    Image,
    /// This user.
    Named {
        /// The user.
        user: Principal,
        /// The main group; none means the one in the image's /etc/passwd, else 0.
        group: Option<Principal>,
    },
}

/// The supplementary groups of a process.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupsRequest {
    /// Whether they include the user's groups in the image's /etc/group.
    pub from_image: GroupsFromImage,
    /// Additional groups.
    pub added: Vec<Principal>,
}

/// When a user gets its groups in the image's /etc/group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GroupsFromImage {
    /// Always, as in containerd.
    Always,
    /// Unless the request names a main group, as in docker.
    #[default]
    UnlessGroupIsNamed,
    /// Never: the CRI's strict policy.
    Never,
}

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountRequest {
    /// The source.
    pub source: MountSource,
    /// The mount point inside.
    pub destination: PathBuf,
    /// Options of the runtime specification.
    pub options: Vec<String>,
    /// The propagation that the container's root must have for the mount's propagation to work: a mount in a private
    /// root receives no events that it could propagate.
    pub root_propagation: Option<Propagation>,
    /// Id map for owners; empty for none.
    pub uids: Vec<LinuxIdMapping>,
    /// Id map for groups; as long as `uids`.
    pub gids: Vec<LinuxIdMapping>,
}

/// The source of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host.
    Host(PathBuf),
    /// An image of the store, or a directory in one.
    Image {
        /// A name, digest or id.
        image: String,
        /// Relative, without `..`; empty for all of it.
        sub_path: PathBuf,
    },
    /// An empty directory in memory.
    Tmpfs,
}

/// The propagation of a mount, mount_namespaces(7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Propagation {
    /// Later mounts of the host propagate into the container.
    Slave,
    /// Mounts of the container propagate to the host too.
    Shared,
}

/// A device node of the host, or a directory of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// The path on the host.
    pub host: PathBuf,
    /// The path inside.
    pub inside: PathBuf,
    /// The access: some of `rwm` (read, write, mknod).
    pub access: String,
}

/// The scopes of the namespaces that can be chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamespaceScopes {
    /// The network namespace.
    pub network: Scope,
    /// The PID namespace.
    pub pid: Scope,
    /// The IPC namespace.
    pub ipc: Scope,
    /// The user namespace; none means the host's.
    pub user: Option<UserNamespace>,
}

impl Default for NamespaceScopes {
    fn default() -> Self {
        Self { network: Scope::Container, pid: Scope::Container, ipc: Scope::Container, user: None }
    }
}

/// The scope of a namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The container's own.
    Container,
    /// The pod's: its containers share it.
    Pod,
    /// The host's.
    Host,
    /// The namespace of another container of the pod, by id.
    Target(String),
}

/// The id maps of a user namespace. Both lists have exactly one range, which begins at 0 inside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// User ids.
    pub uids: Vec<LinuxIdMapping>,
    /// Group ids.
    pub gids: Vec<LinuxIdMapping>,
}

/// Changes to the default capabilities. Named ones are applied after `all`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// Whether every capability is added.
    pub add_all: bool,
    /// Whether every capability is dropped.
    pub drop_all: bool,
    /// Capabilities to add.
    pub add: Vec<Capability>,
    /// Capabilities to drop from all sets.
    pub drop: Vec<Capability>,
    /// Capabilities to add as ambient ones, which a process that is not root keeps.
    pub ambient: Vec<Capability>,
}

/// A profile of seccomp or AppArmor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Profile {
    /// No profile.
    #[default]
    Unconfined,
    /// The runtime's default profile.
    RuntimeDefault,
    /// A profile of the host: for seccomp the path of a file, for AppArmor the name of a loaded profile.
    Localhost(String),
}
