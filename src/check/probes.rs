//! Features of the kernel that are found out by trying, not by its version.

use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsopen};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::linux::id_map::IdMaps;
use crate::linux::user_namespace;
use crate::sys::mount::{MountAttr, mount_setattr_path};

/// What the running kernel can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probes {
    /// Run by root, without which the others say little.
    pub is_root: bool,
    /// openat2(2).
    pub has_openat2: bool,
    /// pidfd_open(2).
    pub has_pidfds: bool,
    /// mount_setattr(2).
    pub has_mount_setattr: bool,
    /// overlayfs, which the attempt loads if it is a module.
    pub overlay: Result<(), Errno>,
    /// A process in a user namespace with mapped ids.
    pub has_user_namespaces: bool,
    /// Such ids for a mount of the store's layers.
    /// Unknown without a store.
    pub maps_layers: Option<bool>,
}

impl Probes {
    /// Tries each of them. Nothing stays behind.
    pub fn of_this_machine(store: &Path) -> Self {
        let has = |result: Result<(), Errno>| !matches!(result, Err(Errno::NOSYS));
        let beneath = ResolveFlags::BENEATH;
        let opened = rustix::fs::openat2(CWD, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), beneath);
        // The path does not exist, so nothing changes.
        let set = mount_setattr_path(c"/proc/self/no-such-entry", true, &MountAttr::default());
        let ids = "0 100000 65536\n".to_owned();
        let maps = IdMaps { uid: ids.clone(), gid: ids };
        let pid = Pid::from_raw(std::process::id().cast_signed());
        Self {
            is_root: rustix::process::geteuid().is_root(),
            has_openat2: has(opened.map(drop)),
            has_pidfds: pid.is_some_and(|pid| has(pidfd_open(pid, PidfdFlags::empty()).map(drop))),
            has_mount_setattr: has(set),
            overlay: fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map(drop),
            has_user_namespaces: user_namespace::open(&maps).is_ok(),
            maps_layers: store.is_dir().then(|| crate::serve::maps_ids(store)),
        }
    }
}
