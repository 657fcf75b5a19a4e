//! Changes from the host's mount tree to the container's.

use std::ffi::CStr;
use std::mem::forget;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount, open_tree,
    unmount,
};
use rustix::process::{chdir, chroot, fchdir, pivot_root};

use super::{At, Init, Outcome, mount};
use crate::launch::steps::Source;
use crate::launch::wire::Op;
use crate::sys::mount::{ATTR_RDONLY, MountAttr, PRIVATE, SHARED, mount_setattr};
use crate::sys::process::cwd_is_inside_root;

impl Init<'_> {
    pub(super) fn isolate(&mut self, propagation: u64) -> Outcome {
        self.root_is_shared = propagation == SHARED;
        propagate(c"/", propagation, true)
    }

    /// Mounts the root tree over `/`, which every user namespace can reach; it may not reach the rootfs itself.
    /// Lookups of host paths do not see the mount, because they start below it.
    pub(super) fn attach_root(&mut self, source: &Source) -> Outcome {
        let tree = match source {
            Source::Host { path, recursive } => {
                let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
                flags.set(OpenTreeFlags::AT_RECURSIVE, *recursive);
                open_tree(CWD, path, flags).at(Op::OpenTree)?
            }
            Source::Opened(slot) => rustix::io::fcntl_dupfd_cloexec(self.fd(*slot), 3).at(Op::Dup)?,
            Source::Filesystem { .. } | Source::Legacy { .. } | Source::Existing => {
                return Err((Op::OpenTree, Errno::INVAL));
            }
        };
        if self.root_is_shared {
            // pivot_root(2) refuses a shared root and a shared parent of it.
            propagate(c"/", PRIVATE, false)?;
        }
        move_mount(&tree, c"", CWD, c"/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).at(Op::MoveMount)?;
        if self.root_is_shared {
            mount::propagate(tree.as_fd(), PRIVATE, false)?;
        }
        self.root = Some(tree);
        Ok(())
    }

    /// pivot_root(2) with the same directory for both: the old root ends up mounted on top of the new one and is
    /// unmounted.
    pub(super) fn pivot_root(&mut self, shared: bool) -> Outcome {
        let old = if shared { Some(open_root()?) } else { None };
        fchdir(self.root()?).at(Op::Chdir)?;
        pivot_root(c".", c".").at(Op::PivotRoot)?;
        if let Some(old) = old {
            // Only the old root becomes a slave: `.` would still name the new one, whose volumes must stay peers of
            // the host's mounts.
            fchdir(&old).at(Op::Chdir)?;
            forget(old);
            mount_change(c".", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
                .at(Op::Mount)?;
        }
        unmount(c".", UnmountFlags::DETACH).at(Op::Umount)?;
        chdir(c"/").at(Op::Chdir)?;
        self.root_is_ours();
        Ok(())
    }

    pub(super) fn move_root(&mut self) -> Outcome {
        fchdir(self.root()?).at(Op::Chdir)?;
        chroot(c".").at(Op::Chroot)?;
        chdir(c"/").at(Op::Chdir)?;
        self.root_is_ours();
        Ok(())
    }

    fn root_is_ours(&mut self) {
        if let Some(root) = self.root.take() {
            forget(root);
        }
    }

    pub(super) fn read_only_root(&self) -> Outcome {
        let root = self.root()?;
        match mount_setattr(root, false, &MountAttr { set: ATTR_RDONLY, ..MountAttr::default() }) {
            Err(Errno::NOSYS) => {
                fchdir(root).at(Op::Chdir)?;
                let flags = rustix::mount::MountFlags::BIND | rustix::mount::MountFlags::RDONLY;
                rustix::mount::mount_remount(c".", flags, c"").at(Op::Mount)
            }
            other => other.at(Op::SetAttr),
        }
    }

    pub(super) fn enter_working_directory(&mut self, path: &CStr, early: bool) -> Outcome {
        if self.in_working_directory {
            return Ok(());
        }
        match chdir(path) {
            Err(Errno::ACCESS | Errno::PERM) if early => return Ok(()),
            other => other.at(Op::Chdir)?,
        }
        // A leaked descriptor of the host would allow a working directory outside the root (CVE-2024-21626).
        if !cwd_is_inside_root().at(Op::CurrentDirectory)? {
            return Err((Op::OutsideRoot, Errno::XDEV));
        }
        self.in_working_directory = true;
        Ok(())
    }
}

/// Sets the propagation type of the mount at a path.
pub(super) fn propagate(path: &CStr, propagation: u64, recursive: bool) -> Outcome {
    let recursive = if recursive { crate::sys::mount::REC } else { 0 };
    let bits = u32::try_from(propagation | recursive).unwrap_or_default();
    mount_change(path, MountPropagationFlags::from_bits_retain(bits)).at(Op::Mount)
}

/// chroot(2) for containers that share the host's mount namespace.
pub(super) fn change_root(directory: BorrowedFd<'_>) -> Outcome {
    fchdir(directory).at(Op::Chdir)?;
    chroot(c".").at(Op::Chroot)?;
    chdir(c"/").at(Op::Chdir)
}

/// Opens the root of this process with `O_PATH`.
pub(super) fn open_root() -> Outcome<std::os::fd::OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(c"/", flags, Mode::empty()).at(Op::Open)
}
