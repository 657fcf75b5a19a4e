//! The steps that a new process executes between clone and execve, as data.
//!
//! A step holds everything it needs in the form the kernel takes (C strings, flags, numbers), so that executing it
//! allocates nothing and decides nothing that could be decided before. `init` executes the steps; `describe` names
//! them in error messages. Plans are sent to the keeper (`portable`); fields that only messages need are not sent
//! (`serde(skip)`).

use std::ffi::CString;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::portable;
use crate::sys::mount::MountAttr;
use crate::sys::process::{SchedAttr, StringArray};

/// The position of a descriptor in the plan's list; see [`super::opens::Open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot(pub usize);

/// A path below the container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    /// The whole path, relative to the root: `dev/pts`; `.` for the root itself.
    pub path: CString,
    /// Each proper prefix with the component that follows it, to create missing directories: (`.`, `dev`),
    /// (`dev`, `pts`).
    pub makers: Vec<(CString, CString)>,
}

/// The kind of file a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PointKind {
    /// A directory; it is created with its parents if missing.
    Directory,
    /// A directory if the source is one, else a file; it is created if missing.
    LikeSource,
}

/// The source of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A new instance of a filesystem.
    Filesystem {
        /// The filesystem type, as in /proc/filesystems.
        fstype: CString,
        /// The parameters for fsconfig(2), in order, each with or without a value; `source` is one of them.
        parameters: Vec<(CString, Option<CString>)>,
    },
    /// A new filesystem with an option too long for fsconfig(2), which takes 255 bytes: mounted with mount(2).
    Legacy {
        /// The filesystem type, as in /proc/filesystems.
        fstype: CString,
        /// The source that mountinfo shows.
        source: CString,
        /// All options, joined by commas.
        data: CString,
    },
    /// A host tree that the child clones itself.
    Host {
        /// Absolute path of the tree.
        path: CString,
        /// Whether the mounts below are cloned too (`rbind`).
        recursive: bool,
    },
    /// A detached tree that the parent opened, because the child cannot (user namespace) or is not allowed to (id
    /// map).
    Opened(Slot),
    /// The existing mount (`remount`).
    Existing,
}

/// One mount below the container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountStep {
    /// The source.
    pub source: Source,
    /// The mount point.
    pub point: Below,
    /// What the mount point has to be.
    pub kind: PointKind,
    /// Attributes of the mount itself.
    #[serde(with = "portable::MountAttrs")]
    pub attr: MountAttr,
    /// Attributes of the mount and of all mounts below it (`rro` and similar options).
    #[serde(with = "portable::optional_attr")]
    pub recursive_attr: Option<MountAttr>,
    /// Propagation types (`MS_*`) to set, in order, each with whether it is recursive.
    pub propagation: Vec<(u64, bool)>,
    /// `tmpcopyup`: copy the content of the mount point into the new filesystem.
    pub copy_up: bool,
    /// Refuse symbolic links on the way to the mount point.
    pub no_symlinks: bool,
}

/// A device node or FIFO; where mknod is not possible, a bind mount of the host's node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceStep {
    /// Where.
    pub node: Below,
    /// Type and permission bits, as for mknod(2).
    pub mode: u32,
    /// Device number; 0 for a FIFO.
    pub dev: u64,
    /// Owner and group.
    pub owner: (u32, u32),
    /// The host's node to bind-mount instead.
    pub bind_from: Option<CString>,
}

/// A hook that runs inside the new process's namespaces, in the form execve takes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HookStep {
    /// The program.
    pub path: CString,
    /// Its arguments, the name first.
    #[serde(with = "portable::strings")]
    pub argv: StringArray,
    /// Its environment.
    #[serde(with = "portable::strings")]
    pub envp: StringArray,
    /// Timeout in seconds; at its end the hook is killed and the start of the container fails.
    pub timeout_s: Option<i64>,
}

/// The user that the payload runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// User id inside the container.
    pub uid: u32,
    /// Group id inside the container.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Whether setgroups(2) is allowed; some user namespaces deny it.
    pub set_groups: bool,
}

/// Capability sets as bit masks; bit n is capability n of capabilities(7).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CapabilityMasks {
    /// Bounding set.
    pub bounding: u64,
    /// Effective set.
    pub effective: u64,
    /// Inheritable set.
    pub inheritable: u64,
    /// Permitted set.
    pub permitted: u64,
    /// Ambient set.
    pub ambient: u64,
}

/// A compiled seccomp filter with its flags for seccomp(2).
#[derive(Clone, Serialize, Deserialize)]
pub struct Filter {
    /// The program.
    #[serde(with = "portable::instructions")]
    pub instructions: Vec<libc::sock_filter>,
    /// `SECCOMP_FILTER_FLAG_*`.
    pub flags: u32,
    /// Whether installing the filter returns a listener, which the parent fetches.
    pub notify: bool,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Filter({} instructions, flags {:#x}, notify {})",
            self.instructions.len(),
            self.flags,
            self.notify
        )
    }
}

impl PartialEq for Filter {
    fn eq(&self, other: &Self) -> bool {
        let key = |i: &libc::sock_filter| (i.code, i.jt, i.jf, i.k);
        self.flags == other.flags
            && self.instructions.len() == other.instructions.len()
            && self.instructions.iter().map(key).eq(other.instructions.iter().map(key))
    }
}

/// The program of the payload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// Paths to try in order: one when the name has a slash, else one per `PATH` entry.
    pub candidates: Vec<CString>,
    /// Arguments, the name first.
    #[serde(with = "portable::strings")]
    pub argv: StringArray,
    /// Environment.
    #[serde(with = "portable::strings")]
    pub envp: StringArray,
}

/// One action of the new process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// Wait until the parent has written the id maps or moved the process into its cgroups.
    AwaitParent,
    /// Join a namespace that the parent opened, with setns(2).
    Join {
        /// The namespace.
        slot: Slot,
        /// Its `CLONE_NEW*`.
        kind: i32,
        /// The path of the namespace, for messages.
        path: String,
        /// Before the user namespace is joined: ignore `EPERM`, because a later step retries with the rights of the
        /// user namespace.
        early: bool,
    },
    /// Join several namespaces of the process behind a pidfd with one setns(2). KERNEL(5.8)
    JoinProcess {
        /// The pidfd.
        slot: Slot,
        /// `CLONE_NEW*` of the namespaces, combined.
        kinds: i32,
    },
    /// Continue as a forked copy, which is the first of our processes inside the joined PID namespace. The processes
    /// there see, signal and may trace the copy, so the process must hold nothing of the host before this step
    /// (CVE-2016-9962); `exposure.rs` lists what, and tests it.
    ForkInside,
    /// Reopen standard streams that are the host's /dev/null through a detached read-only mount, so that the payload
    /// cannot change the host's device with fchmod(2) or fchown(2) on an inherited stream.
    PrivateNull,
    /// Become uid 0 and gid 0 of the user namespace just entered.
    BecomeNamespaceRoot {
        /// Whether setgroups(2) may be called.
        set_groups: bool,
    },
    /// Create a cgroup namespace rooted at the process's cgroup, with unshare(2): clone cannot.
    UnshareCgroup,
    /// Create a time namespace: unshare, write the offsets, enter it.
    UnshareTime {
        /// Lines for /proc/self/timens_offsets.
        offsets: Option<CString>,
    },
    /// setsid(2).
    NewSession,
    /// Create a session keyring of this name.
    SessionKeyring(CString),
    /// Bring `lo` up in the new network namespace.
    LoopbackUp,
    /// Stop mounts from propagating to the host: set the propagation of `/`, recursively.
    Isolate {
        /// `MS_SLAVE`, `MS_PRIVATE`, `MS_SHARED` or `MS_UNBINDABLE`.
        propagation: u64,
    },
    /// Mount the root tree and keep its descriptor.
    AttachRoot {
        /// The rootfs.
        source: Source,
    },
    /// Mount something below the root.
    Mount(Box<MountStep>),
    /// Create a device node.
    Device(Box<DeviceStep>),
    /// Create a symbolic link below the root; an existing file of that name stays.
    Symlink {
        /// The target of the link.
        target: CString,
        /// The path of the link.
        link: Below,
    },
    /// Create a directory with its parents.
    Directory(Below),
    /// Open a private /proc for labels and sysctls, which nothing in the container can cover (CVE-2025-52881): the
    /// one in the slot, or a new one.
    OpenProc(Option<Slot>),
    /// Open a terminal on the container's devpts and send its master to the socket.
    OpenTerminal {
        /// The socket that receives the master.
        slot: Slot,
        /// Whether to bind-mount the terminal on /dev/console too.
        console: bool,
        /// Rows and columns.
        size: Option<(u16, u16)>,
        /// The owner of the terminal.
        uid: u32,
    },
    /// Report to the parent that the namespaces are complete, and wait until its hooks have run.
    HooksPoint,
    /// Run hooks inside; they read the container's state from stdin.
    RunHooks {
        /// The hook point, for messages.
        #[serde(skip)]
        point: &'static str,
        /// The hooks.
        hooks: Vec<HookStep>,
        /// A file with the container's state.
        state: Slot,
    },
    /// sethostname(2).
    Hostname(CString),
    /// setdomainname(2).
    Domainname(CString),
    /// Write a kernel parameter.
    Sysctl {
        /// The path below /proc/sys, such as `net/ipv4/ip_forward`.
        path: CString,
        /// The value to write.
        value: CString,
    },
    /// Mask a path.
    Mask(Below),
    /// Make a path read-only.
    ReadOnly(Below),
    /// Make the container's root the root with pivot_root(2) and unmount the old one.
    PivotRoot {
        /// Whether to make the old root a slave first, so that unmounting it does not propagate.
        shared: bool,
    },
    /// Make the container's root the root with chroot(2) into the mount that covers `/` (`--no-pivot`).
    MoveRoot,
    /// chroot(2) when the container shares the host's mount namespace.
    Chroot(Slot),
    /// Make the root mount read-only.
    ReadOnlyRoot,
    /// Set the propagation of the new root.
    RootPropagation {
        /// `MS_*`.
        propagation: u64,
        /// Whether to include all mounts below.
        recursive: bool,
    },
    /// setrlimit(2).
    Rlimit {
        /// `RLIMIT_*`.
        #[serde(with = "portable::resource")]
        resource: rustix::process::Resource,
        /// The name of the limit, for messages.
        #[serde(skip)]
        name: &'static str,
        /// Soft limit.
        soft: u64,
        /// Hard limit.
        hard: u64,
    },
    /// sched_setattr(2).
    Scheduler(#[serde(with = "portable::SchedAttrs")] SchedAttr),
    /// ioprio_set(2).
    IoPriority(i32),
    /// personality(2).
    Personality(u64),
    /// umask(2): the configured one, or the caller's again. SPEC(runtime 1.2 #posix-platform-user)
    Umask(Option<u32>),
    /// Change the owner of standard streams that are pipes, sockets or terminals to the payload's user.
    GiveStreams {
        /// The user's id.
        uid: u32,
    },
    /// Make the terminal the session's controlling terminal and the standard streams.
    TakeTerminal,
    /// Request a security label for the next execve: write to an attribute below /proc/self/attr.
    ExecLabel {
        /// `AppArmor` or `SELinux`.
        #[serde(skip)]
        system: &'static str,
        /// Attribute files to try in order, relative to /proc.
        attributes: Vec<CString>,
        /// The value to write.
        value: CString,
    },
    /// prctl(2) PR_SET_NO_NEW_PRIVS.
    NoNewPrivileges,
    /// Drop all capabilities from the bounding set that are not in the mask.
    BoundingSet {
        /// The capabilities to keep.
        keep: u64,
    },
    /// Become the user, keeping the permitted capabilities for the steps that follow.
    Identity(Identity),
    /// Enter the working directory and verify that it is inside the root (CVE-2024-21626).
    WorkingDirectory {
        /// The directory, as seen from the root.
        path: CString,
        /// Whether this is the attempt before the user changes: `EACCES` is not final, because the user may have
        /// access to a directory that root has not.
        early: bool,
    },
    /// Find the payload's executable, before readiness is reported.
    FindProgram,
    /// Drop every capability that neither the payload nor a later step needs, as bits by the numbers of
    /// capabilities(7).
    ReduceCapabilities {
        /// The capabilities to keep.
        keep: u64,
    },
    /// Report to the parent that the set-up is complete.
    Ready,
    /// Wait for the parent's permission to run the payload.
    AwaitGo,
    /// Wait until `start` connects to the start socket.
    AwaitStart(Slot),
    /// Install the seccomp filter.
    Seccomp(Box<Filter>),
    /// Set the final capability sets.
    Capabilities(CapabilityMasks),
    /// execve(2).
    Execute,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filesystem { fstype, .. } | Self::Legacy { fstype, .. } => {
                write!(f, "{}", fstype.to_string_lossy())
            }
            Self::Host { path, .. } => write!(f, "{}", path.to_string_lossy()),
            Self::Opened(_) => f.write_str("a host directory"),
            Self::Existing => f.write_str("again what is"),
        }
    }
}

impl fmt::Display for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_bytes() {
            b"." => f.write_str("/"),
            _ => write!(f, "/{}", self.path.to_string_lossy()),
        }
    }
}
