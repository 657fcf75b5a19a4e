//! The steps that a new process takes between clone and execve, as data.
//!
//! A step holds everything it needs, in the form the kernel takes it (C strings, flags, numbers), so that taking it
//! needs no allocation and no decision that could have been made before. `init` takes them; `describe` says what a user
//! reads when one fails. Steps travel to the keeper (`portable`); what only messages need stays behind (`serde(skip)`).

use std::ffi::CString;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::portable;
use crate::sys::mount::MountAttr;
use crate::sys::process::{SchedAttr, StringArray};

/// The number of a descriptor in the plan's list of things the parent opens; see [`super::opens::Open`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot(pub usize);

/// A path below the container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Below {
    /// The whole path, relative to the root: `dev/pts`; `.` for the root itself.
    pub path: CString,
    /// Each proper prefix with the component that follows it, to make what is missing: (`.`, `dev`), (`dev`, `pts`).
    pub makers: Vec<(CString, CString)>,
}

/// What a mount point has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PointKind {
    /// A directory; made with its parents when missing.
    Directory,
    /// A directory if the source is one, else a file; made when missing.
    LikeSource,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A new instance of a filesystem: its type, and its parameters as keys with or without a value.
    Filesystem {
        /// As in /proc/filesystems.
        fstype: CString,
        /// For fsconfig(2), in order; `source` among them.
        parameters: Vec<(CString, Option<CString>)>,
    },
    /// A new filesystem with an option too long for fsconfig(2), which takes 255 bytes: by mount(2).
    Legacy {
        /// As in /proc/filesystems.
        fstype: CString,
        /// What mountinfo shows as the source.
        source: CString,
        /// All options, joined by commas.
        data: CString,
    },
    /// A tree of the host that the child clones itself.
    Host {
        /// Absolute.
        path: CString,
        /// `rbind`: with the mounts below it.
        recursive: bool,
    },
    /// A detached tree that the parent opened, because the child could not (user namespace) or may not (id map).
    Opened(Slot),
    /// The mount that is there already (`remount`).
    Existing,
}

/// One mount of the container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountStep {
    /// From where.
    pub source: Source,
    /// Onto what.
    pub point: Below,
    /// What the mount point has to be.
    pub kind: PointKind,
    /// Attributes of the mount itself.
    #[serde(with = "portable::MountAttrs")]
    pub attr: MountAttr,
    /// Attributes of the mount and all below it (`rro` and its kin).
    #[serde(with = "portable::optional_attr")]
    pub recursive_attr: Option<MountAttr>,
    /// Propagation types (`MS_*`) to give, in order, each with whether it is recursive.
    pub propagation: Vec<(u64, bool)>,
    /// `tmpcopyup`: the new filesystem begins with a copy of what the mount point holds.
    pub copy_up: bool,
    /// No link may be followed on the way to the mount point.
    pub no_symlinks: bool,
}

/// A device node, FIFO or, where mknod is not possible, a bind mount of the host's.
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
    /// Bind the host's node of this path instead.
    pub bind_from: Option<CString>,
}

/// A hook that runs inside the new process's namespaces, ready for execve.
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
    /// Seconds after which it is killed and the container with it.
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
    /// Whether setgroups(2) may be called: not where the user namespace denies it.
    pub set_groups: bool,
}

/// Capability sets as bit masks: bit n is capability n of capabilities(7).
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
    /// Whether a listener descriptor comes back, to be fetched by the parent.
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

/// What the payload is.
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

/// One thing that the new process does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Step {
    /// Wait until the parent has written id maps or moved us into our cgroups.
    AwaitParent,
    /// setns(2) into a namespace the parent opened; `early` tries before the user namespace is entered and may fail.
    Join {
        /// The namespace.
        slot: Slot,
        /// Its `CLONE_NEW*`.
        kind: i32,
        /// For the message: where it came from.
        path: String,
        /// An `EPERM` is passed over: a later step tries again with the rights of the user namespace.
        early: bool,
    },
    /// setns(2) into several namespaces of the process behind a pidfd at once. KERNEL(5.8)
    JoinProcess {
        /// The pidfd.
        slot: Slot,
        /// `CLONE_NEW*`, joined.
        kinds: i32,
    },
    /// Go on as a forked copy, which is the first of our processes that is in the PID namespace that was joined. The
    /// processes inside see, signal and may trace the copy, so everything of the host must be gone before this step
    /// (CVE-2016-9962): the table in `exposure.rs` says what, and is checked.
    ForkInside,
    /// Reopen those standard streams that are the host's /dev/null through a detached read-only mount, so that the
    /// payload cannot chmod(2) or chown(2) the host's device with fchmod(2) on a stream it inherits.
    PrivateNull,
    /// Take ids 0 of the user namespace just entered.
    BecomeNamespaceRoot {
        /// Whether setgroups(2) may be called.
        set_groups: bool,
    },
    /// unshare(2) what cannot be made by clone: a cgroup namespace rooted at the cgroup we were moved to.
    UnshareCgroup,
    /// A new time namespace: unshare, write the offsets, enter it.
    UnshareTime {
        /// Lines for /proc/self/timens_offsets.
        offsets: Option<CString>,
    },
    /// setsid(2).
    NewSession,
    /// A session keyring of our own.
    SessionKeyring(CString),
    /// Bring `lo` up in the new network namespace.
    LoopbackUp,
    /// Cut the mount namespace off from the host's: propagation of `/`, recursively.
    Isolate {
        /// `MS_SLAVE`, `MS_PRIVATE`, `MS_SHARED` or `MS_UNBINDABLE`.
        propagation: u64,
    },
    /// Mount the root tree and hold its descriptor.
    AttachRoot {
        /// The rootfs.
        source: Source,
    },
    /// One mount.
    Mount(Box<MountStep>),
    /// A device node.
    Device(Box<DeviceStep>),
    /// A symbolic link below the root; one that is there already stays.
    Symlink {
        /// What it says.
        target: CString,
        /// Where it is.
        link: Below,
    },
    /// Make a directory with its parents.
    Directory(Below),
    /// Open a private /proc for labels and sysctls, which nothing in the container can cover (CVE-2025-52881): the one in
    /// the slot, or a new one.
    OpenProc(Option<Slot>),
    /// Open a terminal on the container's devpts and send its master away.
    OpenTerminal {
        /// The socket that gets the master.
        slot: Slot,
        /// Bind it on /dev/console too.
        console: bool,
        /// Rows and columns.
        size: Option<(u16, u16)>,
        /// Who owns it.
        uid: u32,
    },
    /// Tell the parent that the namespaces stand, and wait until its hooks have run.
    HooksPoint,
    /// Run hooks in here, the container's state on their stdin.
    RunHooks {
        /// For the message: the hook point.
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
        /// Below /proc/sys: `net/ipv4/ip_forward`.
        path: CString,
        /// What to write.
        value: CString,
    },
    /// Hide a path.
    Mask(Below),
    /// Make a path read-only.
    ReadOnly(Below),
    /// Root becomes the root: pivot_root(2), and the old one is gone.
    PivotRoot {
        /// Make the old root a slave first, so that taking it down does not spread.
        shared: bool,
    },
    /// Root becomes the root by chroot(2) onto the mount that covers `/` (`--no-pivot`).
    MoveRoot,
    /// chroot(2) where there is no mount namespace of our own.
    Chroot(Slot),
    /// The root mount is read-only from here on.
    ReadOnlyRoot,
    /// Propagation of the new root.
    RootPropagation {
        /// `MS_*`.
        propagation: u64,
        /// With all below.
        recursive: bool,
    },
    /// setrlimit(2).
    Rlimit {
        /// `RLIMIT_*`.
        #[serde(with = "portable::resource")]
        resource: rustix::process::Resource,
        /// For the message.
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
    /// umask(2): the configured one, or again the caller's. SPEC(runtime 1.2 #posix-platform-user)
    Umask(Option<u32>),
    /// Give the standard streams that are pipes, sockets or terminals to the payload's user.
    GiveStreams {
        /// That user's id.
        uid: u32,
    },
    /// Make the terminal the controlling terminal of our session, and our standard streams.
    TakeTerminal,
    /// Ask for a security label at the next execve: write to an attribute below /proc/self/attr.
    ExecLabel {
        /// `AppArmor` or `SELinux`.
        #[serde(skip)]
        system: &'static str,
        /// Attribute files to try in order, relative to /proc.
        attributes: Vec<CString>,
        /// What to write.
        value: CString,
    },
    /// prctl(2) PR_SET_NO_NEW_PRIVS.
    NoNewPrivileges,
    /// Drop from the bounding set what is not in the mask.
    BoundingSet {
        /// What stays.
        keep: u64,
    },
    /// Become the user, keeping the permitted capabilities for a moment.
    Identity(Identity),
    /// Enter the working directory and make sure that it lies inside the root (CVE-2024-21626).
    WorkingDirectory {
        /// As seen from the root.
        path: CString,
        /// Root could enter what the user may not, or the other way round: being refused is not final.
        early: bool,
    },
    /// Find the payload before anybody is told that the container is ready.
    FindProgram,
    /// Drop every capability that neither the payload nor a later step needs: capabilities(7) numbers as bits.
    ReduceCapabilities {
        /// What stays.
        keep: u64,
    },
    /// Tell the parent that all is set up.
    Ready,
    /// Wait for the parent's word before the payload may run.
    AwaitGo,
    /// Wait until somebody connects to the start socket.
    AwaitStart(Slot),
    /// Install the seccomp filter.
    Seccomp(Box<Filter>),
    /// The final capability sets.
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
