//! Creates mounts detached, sets their attributes, and only then attaches them to a mount point held by descriptor.

use std::cell::Cell;
use std::ffi::{CStr, CString};
use std::mem::forget;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, FileType, OFlags, ResolveFlags, fstat, fstatfs};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::{At, Init, Outcome, beneath, copy_up};
use crate::launch::steps::{Below, MountStep, PointKind, Source};
use crate::launch::wire::Op;
use crate::sys::mount::{
    ATTR_NOATIME, ATTR_NODEV, ATTR_NODIRATIME, ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, ATTR_STRICTATIME,
    MountAttr, mount_setattr,
};

/// The mounts that mask paths: created at first use, then cloned.
#[derive(Default)]
pub(super) struct Masks {
    null: Option<OwnedFd>,
    directory: Option<OwnedFd>,
}

/// A mount ready to be attached, with the attributes that this kernel could not set while it was detached.
struct ReadyMount {
    tree: OwnedFd,
    late: Option<MountAttr>,
}

impl Init<'_> {
    pub(super) fn mount(&self, step: &MountStep) -> Outcome {
        match &step.source {
            Source::Existing => {
                let target = self.target(step, PointKind::LikeSource, true)?;
                set_attr(target.as_fd(), &step.attr, true).map(drop)
            }
            Source::Legacy { fstype, source, data } => {
                let target = self.target(step, PointKind::Directory, true)?;
                mount_legacy(fstype, source, data, step, &target)
            }
            Source::Opened(slot) => {
                let copy = rustix::io::fcntl_dupfd_cloexec(self.fd(*slot), 3).at(Op::Dup)?;
                self.attach(step, copy, true)
            }
            Source::Host { path, recursive } => {
                let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                flags.set(OpenTreeFlags::AT_RECURSIVE, *recursive);
                self.attach(step, open_tree(CWD, path, flags).at(Op::OpenTree)?, true)
            }
            Source::Filesystem { fstype, parameters } => {
                self.attach(step, filesystem(fstype, parameters, step, &self.detail)?, false)
            }
        }
    }

    fn attach(&self, step: &MountStep, tree: OwnedFd, is_bind: bool) -> Outcome {
        let directory = step.kind == PointKind::Directory
            || FileType::from_raw_mode(fstat(&tree).at(Op::Stat)?.st_mode) == FileType::Directory;
        let target = self.target(step, step.kind, directory)?;
        let names_proc = matches!(
            step.point.path.as_bytes(),
            [b'p', b'r', b'o', b'c'] | [b'p', b'r', b'o', b'c', b'/', ..]
        );
        if !names_proc && is_proc(&target)? {
            // A symbolic link in the image led here (CVE-2025-52881).
            return Err((Op::OnProc, Errno::LOOP));
        }
        if step.copy_up {
            copy_up::copy_tree(&target, &tree)?;
        }
        let ready = if is_bind || step.copy_up {
            let late = set_attr(tree.as_fd(), &step.attr, false)?;
            ReadyMount { tree, late }
        } else {
            ReadyMount { tree, late: None }
        };
        if let Some(attr) = &step.recursive_attr {
            mount_setattr(ready.tree.as_fd(), true, attr).at(Op::SetAttr)?;
        }
        attach_to(&ready.tree, &target)?;
        for (propagation, recursive) in &step.propagation {
            propagate(ready.tree.as_fd(), *propagation, *recursive)?;
        }
        if let Some(attr) = &ready.late {
            remount(ready.tree.as_fd(), attr)?;
        }
        forget(ready);
        Ok(())
    }

    fn target(&self, step: &MountStep, kind: PointKind, directory: bool) -> Outcome<OwnedFd> {
        let resolve = if step.no_symlinks { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
        let root = self.root()?;
        match kind {
            PointKind::Directory => beneath::open_directory(root, &step.point, resolve),
            PointKind::LikeSource if matches!(step.source, Source::Existing) => {
                beneath::open(root, &step.point.path, OFlags::empty(), resolve).at(Op::Open)
            }
            PointKind::LikeSource if directory => beneath::open_directory(root, &step.point, resolve),
            PointKind::LikeSource => beneath::open_file(root, &step.point),
        }
    }

    /// Masks a path: a directory with an empty one, anything else with a null device.
    pub(super) fn mask(&mut self, path: &Below) -> Outcome {
        let target = match beneath::open(self.root()?, &path.path, OFlags::empty(), ResolveFlags::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other.at(Op::Open)?,
        };
        let is_directory =
            FileType::from_raw_mode(fstat(&target).at(Op::Stat)?.st_mode) == FileType::Directory;
        let attached = if is_directory { &self.masks.directory } else { &self.masks.null };
        let (tree, late) = match (attached, is_directory) {
            // A clone has the attributes of the original.
            (Some(attached), _) => (clone_of(attached.as_fd(), false)?, None),
            (None, true) => (empty_directory()?, None),
            (None, false) => self.null_mask()?,
        };
        attach_to(&tree, &target)?;
        if let Some(attr) = late {
            remount(tree.as_fd(), &attr)?;
        }
        let attached = if is_directory { &mut self.masks.directory } else { &mut self.masks.null };
        match attached {
            Some(_) => forget(tree),
            None => *attached = Some(tree),
        }
        Ok(())
    }

    pub(super) fn make_read_only(&self, path: &Below) -> Outcome {
        let target = match beneath::open(self.root()?, &path.path, OFlags::empty(), ResolveFlags::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other.at(Op::Open)?,
        };
        let tree = clone_of(target.as_fd(), true)?;
        let attr = MountAttr { set: ATTR_RDONLY, ..MountAttr::default() };
        let late = match mount_setattr(tree.as_fd(), true, &attr) {
            Err(Errno::NOSYS) => Some(attr),
            other => {
                other.at(Op::SetAttr)?;
                None
            }
        };
        attach_to(&tree, &target)?;
        if let Some(attr) = late {
            remount(tree.as_fd(), &attr)?;
        }
        forget(tree);
        Ok(())
    }
}

fn filesystem(
    fstype: &CStr,
    parameters: &[(CString, Option<CString>)],
    step: &MountStep,
    detail: &Cell<u32>,
) -> Outcome<OwnedFd> {
    let context = fsopen(fstype, FsOpenFlags::FSOPEN_CLOEXEC).at(Op::FsOpen)?;
    for (position, (key, value)) in (0..).zip(parameters) {
        detail.set(position);
        match value {
            Some(value) => fsconfig_set_string(&context, key, value),
            None => fsconfig_set_flag(&context, key),
        }
        .at(Op::FsConfig)?;
    }
    fsconfig_create(&context).at(Op::FsCreate)?;
    // Copying up writes to the filesystem, so its attributes are set afterwards.
    let bits = if step.copy_up { 0 } else { step.attr.set };
    let attr = MountAttrFlags::from_bits_retain(u32::try_from(bits).unwrap_or(u32::MAX));
    let tree = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attr).at(Op::FsMount)?;
    forget(context);
    Ok(tree)
}

pub(super) fn attach_to(tree: &OwnedFd, target: &OwnedFd) -> Outcome {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags).at(Op::MoveMount)
}

/// Clones the mount at a descriptor, detached.
pub(super) fn clone_of(fd: BorrowedFd<'_>, recursive: bool) -> Outcome<OwnedFd> {
    let mut flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(fd, c"", flags).at(Op::OpenTree)
}

/// Sets attributes; returns those that have to be set later because the kernel lacks mount_setattr(2).
pub(super) fn set_attr(fd: BorrowedFd<'_>, attr: &MountAttr, attached: bool) -> Outcome<Option<MountAttr>> {
    if attr.set == 0 && attr.clear == 0 {
        return Ok(None);
    }
    match mount_setattr(fd, false, attr) {
        // A user namespace may not clear attributes that the host has locked; those to set still have to be set.
        Err(Errno::PERM) if attr.clear != 0 => {
            mount_setattr(fd, false, &MountAttr { clear: 0, ..*attr }).at(Op::SetAttr)?;
            Ok(None)
        }
        Err(Errno::NOSYS) if attached => remount(fd, attr).map(|()| None),
        Err(Errno::NOSYS) => Ok(Some(*attr)),
        other => other.at(Op::SetAttr).map(|()| None),
    }
}

/// Sets the propagation type of the mount behind a descriptor. KERNEL(5.12), on older kernels with mount(2).
pub(super) fn propagate(fd: BorrowedFd<'_>, propagation: u64, recursive: bool) -> Outcome {
    match mount_setattr(fd, recursive, &MountAttr { propagation, ..MountAttr::default() }) {
        Err(Errno::NOSYS) => {
            let recursive = if recursive { crate::sys::mount::REC } else { 0 };
            let bits = u32::try_from(propagation | recursive).unwrap_or_default();
            let flags = rustix::mount::MountPropagationFlags::from_bits_retain(bits);
            rustix::mount::mount_change(own_link(fd).as_c_str(), flags).at(Op::Mount)
        }
        other => other.at(Op::SetAttr),
    }
}

/// The attributes as flags of mount(2), for kernels before 5.12.
fn legacy_flags(attr: &MountAttr) -> MountFlags {
    const TABLE: [(u64, MountFlags); 7] = [
        (ATTR_RDONLY, MountFlags::RDONLY),
        (ATTR_NOSUID, MountFlags::NOSUID),
        (ATTR_NODEV, MountFlags::NODEV),
        (ATTR_NOEXEC, MountFlags::NOEXEC),
        (ATTR_NOATIME, MountFlags::NOATIME),
        (ATTR_STRICTATIME, MountFlags::STRICTATIME),
        (ATTR_NODIRATIME, MountFlags::NODIRATIME),
    ];
    TABLE
        .iter()
        .filter(|(bit, _)| attr.set & bit != 0)
        .fold(MountFlags::empty(), |all, (_, flag)| all | *flag)
}

fn remount(fd: BorrowedFd<'_>, attr: &MountAttr) -> Outcome {
    let flags = legacy_flags(attr) | MountFlags::BIND;
    rustix::mount::mount_remount(own_link(fd).as_c_str(), flags, c"").at(Op::Mount)
}

fn mount_legacy(fstype: &CStr, source: &CStr, data: &CStr, step: &MountStep, target: &OwnedFd) -> Outcome {
    let flags = legacy_flags(&step.attr);
    rustix::mount::mount(source, own_link(target.as_fd()).as_c_str(), fstype, flags, data).at(Op::Mount)
}

/// `/proc/self/fd/N` without an allocation; the host's /proc is still visible while mounts are created.
struct OwnLink([u8; 32]);

impl OwnLink {
    fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or(c"")
    }
}

fn own_link(fd: BorrowedFd<'_>) -> OwnLink {
    const PREFIX: &[u8] = b"/proc/self/fd/";
    let mut path = [0; 32];
    path[..PREFIX.len()].copy_from_slice(PREFIX);
    let mut digits = [0; 10];
    let mut number = fd.as_raw_fd().unsigned_abs();
    let mut count = 0;
    loop {
        digits[count] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        count += 1;
        if number == 0 {
            break;
        }
    }
    for (at, digit) in digits[..count].iter().rev().enumerate() {
        path[PREFIX.len() + at] = *digit;
    }
    OwnLink(path)
}

fn is_proc(fd: &OwnedFd) -> Outcome<bool> {
    Ok(i128::from(fstatfs(fd).at(Op::Stat)?.f_type) == i128::from(libc::PROC_SUPER_MAGIC))
}

fn empty_directory() -> Outcome<OwnedFd> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).at(Op::FsOpen)?;
    fsconfig_set_string(&context, c"nr_inodes", c"2").at(Op::FsConfig)?;
    fsconfig_create(&context).at(Op::FsCreate)?;
    let attr =
        MountAttrFlags::from_bits_retain((ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV | ATTR_NOEXEC) as u32);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attr).at(Op::FsMount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_has_a_path_in_proc() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let expected = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(own_link(file.as_fd()).as_c_str().to_str().unwrap(), expected);
    }
}
