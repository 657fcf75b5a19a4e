//! A container as it is asked for, whoever asks: flags of `launch` and messages of the CRI both become this.
//!
//! A request is data. It names files, users, devices and profiles, but nothing of that has been looked up; see
//! [`Resolved`](super::Resolved) for what the host and the image have to say.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{Capability, LinuxIdMapping, LinuxResources, PosixRlimit};
use serde::{Deserialize, Serialize};

/// A container that is asked for. What is left at its default comes from the image or from [`super::defaults`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ContainerRequest {
    /// The program, its arguments and its surroundings.
    pub process: ProcessRequest,
    /// The user and main group of the process.
    pub user: UserRequest,
    /// The other groups of the process.
    pub groups: GroupsRequest,
    /// The host name to set in a UTS namespace of the container's own; none leaves the name that the namespace has.
    pub hostname: Option<String>,
    /// Whether the container may do all that the host's root may.
    pub privileged: bool,
    /// Whether the root filesystem is read-only.
    pub read_only_root: bool,
    /// Bind mounts, tmpfs and images, in the order in which they are mounted.
    pub mounts: Vec<MountRequest>,
    /// Size of the container's own /dev/shm in bytes.
    pub shm_size: Option<i64>,
    /// Whether the host's /sys is bound in place of a new sysfs. A new one shows the network namespace, and can be
    /// mounted only by who owns that.
    pub bind_sys: bool,
    /// Devices of the host.
    pub devices: Vec<DeviceRequest>,
    /// Names of CDI devices, `vendor/class=name`, each once.
    pub cdi_devices: Vec<String>,
    /// The namespaces that it lives in.
    pub namespaces: NamespaceScopes,
    /// What its process may do.
    pub capabilities: Capabilities,
    /// seccomp(2)
    pub seccomp: Profile,
    /// apparmor(7)
    pub apparmor: Profile,
    /// The SELinux label of its process.
    pub selinux_label: Option<String>,
    /// Paths that are hidden from it.
    pub masked_paths: Vec<PathBuf>,
    /// Paths that it cannot write to.
    pub readonly_paths: Vec<PathBuf>,
    /// Limits of its cgroup. Rules for devices are not among them: they follow from the devices.
    pub resources: LinuxResources,
    /// The cgroup above its own.
    pub cgroup_parent: Option<PathBuf>,
    /// Kernel parameters of its own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Annotations of the runtime configuration. An image's labels are never among them: annotations steer runtimes and
    /// hooks (CVE-2026-53488).
    pub annotations: BTreeMap<String, String>,
}

/// The process of a container.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ProcessRequest {
    /// Replaces the image's entrypoint and drops its command.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command when it is not empty.
    pub args: Vec<String>,
    /// Environment variables, in order; the last of a name counts.
    pub env: Vec<Variable>,
    /// The working directory; the image's when none.
    pub working_dir: Option<PathBuf>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether it can gain nothing by execve(2).
    pub no_new_privileges: bool,
    /// setrlimit(2)
    pub rlimits: Vec<PosixRlimit>,
    /// proc_pid_oom_score_adj(5); that of the runtime is inherited when none.
    pub oom_score_adj: Option<i32>,
}

/// An environment variable. Values need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Variable {
    /// Its name, without `=`.
    pub name: String,
    /// Its value, without NUL.
    pub value: Vec<u8>,
}

/// A user or group, by number or by the name that it has in the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Principal {
    /// By number.
    Id(u32),
    /// By name, which is looked up in the image's /etc/passwd or /etc/group.
    Name(String),
}

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum UserRequest {
    /// The user, and perhaps the group, that the image names; else root.
    #[default]
    Image,
    /// This user.
    Named {
        /// The user.
        user: Principal,
        /// The main group; that of the image's /etc/passwd when none, else 0.
        group: Option<Principal>,
    },
}

/// The groups of a process beside its main one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupsRequest {
    /// Whether the groups that the image's /etc/group gives the user are among them.
    pub from_image: GroupsFromImage,
    /// Groups that are added.
    pub added: Vec<Principal>,
}

/// When a user gets the groups of the image's /etc/group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum GroupsFromImage {
    /// Always, as containerd has it.
    Always,
    /// Unless a main group is named with the user, as docker has it.
    #[default]
    UnlessGroupIsNamed,
    /// Never: the CRI's strict policy.
    Never,
}

/// What is mounted into a container.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MountRequest {
    /// What is mounted.
    pub source: MountSource,
    /// Where, inside.
    pub destination: PathBuf,
    /// Options of the runtime specification.
    pub options: Vec<String>,
    /// What the propagation of the container's root has to be for that of the mount to work: in a private root a mount gets
    /// nothing that it could pass on.
    pub root_propagation: Option<Propagation>,
    /// Owners are shown through these; empty for none.
    pub uids: Vec<LinuxIdMapping>,
    /// Groups are shown through these; as many as `uids`.
    pub gids: Vec<LinuxIdMapping>,
}

/// The source of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A file or directory of the host.
    Host(PathBuf),
    /// An image of the store, or a path in one.
    Image {
        /// A name, digest or id.
        image: String,
        /// Relative, without `..`; empty for all of it.
        sub_path: PathBuf,
    },
    /// An empty directory in memory.
    Tmpfs,
}

/// mount_namespaces(7)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Propagation {
    /// The host's later mounts come in.
    Slave,
    /// And the container's go out.
    Shared,
}

/// A device node of the host, or a directory of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    /// Where it is on the host.
    pub host: PathBuf,
    /// Where it shall be inside.
    pub inside: PathBuf,
    /// Some of `rwm`: read, write, mknod.
    pub access: String,
}

/// The namespaces whose scope can be chosen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamespaceScopes {
    /// The network namespace.
    pub network: Scope,
    /// The PID namespace.
    pub pid: Scope,
    /// The IPC namespace.
    pub ipc: Scope,
    /// The user namespace; the host's when none.
    pub user: Option<UserNamespace>,
}

impl Default for NamespaceScopes {
    fn default() -> Self {
        Self { network: Scope::Container, pid: Scope::Container, ipc: Scope::Container, user: None }
    }
}

/// Whose namespace it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// The container's own.
    Container,
    /// The pod's: its containers share it.
    Pod,
    /// The host's.
    Host,
    /// That of another container of the pod, by id.
    Target(String),
}

/// The ids of a user namespace. Both lists have exactly one range, which begins at 0 inside.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UserNamespace {
    /// User ids.
    pub uids: Vec<LinuxIdMapping>,
    /// Group ids.
    pub gids: Vec<LinuxIdMapping>,
}

/// What is added to and taken from the default capabilities. The named ones count after `all`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Capabilities {
    /// Whether every capability is added.
    pub add_all: bool,
    /// Whether every capability is dropped.
    pub drop_all: bool,
    /// Added.
    pub add: Vec<Capability>,
    /// Dropped, from all sets.
    pub drop: Vec<Capability>,
    /// Added, and kept by a program that is not root's.
    pub ambient: Vec<Capability>,
}

/// A profile of seccomp or AppArmor.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Profile {
    /// None.
    #[default]
    Unconfined,
    /// The runtime's own.
    RuntimeDefault,
    /// One of the host's: for seccomp the path of a file, for AppArmor the name of a loaded profile.
    Localhost(String),
}
