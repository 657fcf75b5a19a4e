//! Creates device nodes.

use std::mem::forget;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, chownat, mknodat, statat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Gid, Uid};

use super::{At, Init, Outcome, beneath, mount};
use crate::launch::steps::DeviceStep;
use crate::launch::wire::Op;

impl Init<'_> {
    pub(super) fn device(&self, step: &DeviceStep) -> Outcome {
        if let Some(path) = &step.bind_from {
            return self.bind_device(step, path);
        }
        let (parent, name) = beneath::open_parent(self.root()?, &step.node)?;
        let kind = FileType::from_raw_mode(step.mode);
        match mknodat(&parent, name, kind, Mode::from_raw_mode(step.mode), step.dev) {
            // The image may contain the node; any other file of that name is refused.
            Err(Errno::EXIST) => {
                let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).at(Op::Stat)?;
                let same = FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == step.dev;
                if !same {
                    return Err((Op::Mknod, Errno::EXIST));
                }
            }
            // mknod(2) is denied, as in a user namespace that the configuration does not mention.
            Err(Errno::PERM) if kind != FileType::Fifo => {
                return Err((Op::Mknod, Errno::PERM));
            }
            other => other.at(Op::Mknod)?,
        }
        if step.owner != (0, 0) {
            let (uid, gid) = (Uid::from_raw(step.owner.0), Gid::from_raw(step.owner.1));
            chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).at(Op::Chown)?;
        }
        Ok(())
    }

    fn bind_device(&self, step: &DeviceStep, path: &std::ffi::CStr) -> Outcome {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let tree = open_tree(CWD, path, flags).at(Op::OpenTree)?;
        let target =
            match beneath::open(self.root()?, &step.node.path, OFlags::NOFOLLOW, ResolveFlags::empty()) {
                Err(Errno::NOENT) => beneath::open_file(self.root()?, &step.node)?,
                other => other.at(Op::Open)?,
            };
        mount::attach_to(&tree, &target)?;
        forget(tree);
        Ok(())
    }
}
