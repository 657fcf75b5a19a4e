//! Opens the plan's descriptors before the clone, so that the child finds each one at a known number.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, memfd_create};
use rustix::mount::{OpenTreeFlags, open_tree};

use super::opens::Open;
use super::plan::Plan;
use super::procfs;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::id_map::IdMaps;
use crate::linux::user_namespace;
use crate::sys;
use crate::sys::mount::{ATTR_IDMAP, MountAttr, mount_setattr};

/// What the caller passes to the launch besides the plan: descriptors, and how strict it is.
#[derive(Debug, Default)]
pub struct Inputs {
    /// The root filesystem, as a detached mount.
    pub root: Option<OwnedFd>,
    /// The socket that receives the terminal.
    pub console: Option<OwnedFd>,
    /// The listening socket on which `start` arrives.
    pub start_socket: Option<OwnedFd>,
    /// The pidfd of the process whose namespaces are joined.
    pub process: Option<OwnedFd>,
    /// Where this process may not lower an oom_score_adj, which needs CAP_SYS_RESOURCE, leave it as it is, the lowest that is
    /// permitted.
    pub oom_score_adj_may_stay: bool,
}

/// Opens all descriptors, in the order of the plan's slots.
///
/// # Errors
/// Something cannot be opened, or the caller did not pass a descriptor that the plan needs.
pub fn open_all(plan: &Plan, inputs: &mut Inputs) -> Result<Vec<OwnedFd>> {
    let mut opened = Vec::with_capacity(plan.opens.0.len());
    for open in &plan.opens.0 {
        let fd = open_one(open, inputs, &opened)?;
        opened.push(fd);
    }
    Ok(opened)
}

fn open_one(open: &Open, inputs: &mut Inputs, opened: &[OwnedFd]) -> Result<OwnedFd> {
    let bring = |fd: Option<OwnedFd>, what: &str| {
        fd.ok_or_else(|| {
            Error::new(Kind::Bug, format!("the plan needs {what}, which the caller did not pass"))
        })
    };
    match open {
        Open::Namespace { path, kind } => namespace(path, *kind),
        Open::Tree { path, recursive, propagation, idmap } => {
            tree(path, *recursive, *propagation, idmap.as_ref())
                .map_err(|e| e.doing(format!("open {}", path.display())))
        }
        Open::Directory(path) => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).doing(|| format!("open {}", path.display()))
        }
        Open::Root => bring(inputs.root.take(), "a mounted root filesystem"),
        Open::Console => bring(inputs.console.take(), "a console socket"),
        Open::StartSocket => bring(inputs.start_socket.take(), "a start socket"),
        Open::Process => bring(inputs.process.take(), "a process"),
        Open::Proc { namespace, parameters } => {
            let namespace = opened
                .get(namespace.0)
                .ok_or_else(|| Error::new(Kind::Bug, "a procfs comes before its PID namespace"))?;
            procfs::of_namespace(namespace.as_fd(), parameters)
        }
        Open::HookState => memfd_create(c"state", MemfdFlags::CLOEXEC).doing(|| "make a file in memory"),
    }
}

/// Opens a namespace file and checks its type (NS_GET_NSTYPE of ioctl_nsfs(2)).
fn namespace(path: &Path, kind: i32) -> Result<OwnedFd> {
    let doing = || format!("open the namespace {}", path.display());
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).doing(doing)?;
    match sys::namespace::kind_of(fd.as_fd()) {
        Ok(found) if found == kind => Ok(fd),
        Ok(_) => Err(Error::invalid(format!("{} is a namespace of another type", path.display()))),
        Err(errno) => Err(Error::invalid(format!("{} is not a namespace", path.display())).because(errno)),
    }
}

fn tree(path: &Path, recursive: bool, propagation: u64, idmap: Option<&(IdMaps, bool)>) -> Result<OwnedFd> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    let tree = open_tree(CWD, path, flags).doing(|| "open_tree")?;
    let attr = MountAttr { propagation, ..MountAttr::default() };
    mount_setattr(tree.as_fd(), true, &attr).doing(|| "mount_setattr")?;
    if let Some((maps, deep)) = idmap {
        let namespace = user_namespace::open(maps)?;
        let userns_fd = u64::try_from(namespace.as_raw_fd()).unwrap_or_default();
        let attr = MountAttr { set: ATTR_IDMAP, userns_fd, ..MountAttr::default() };
        mount_setattr(tree.as_fd(), *deep, &attr)
            .doing(|| "map the ids of the mount")
            .map_err(|e| e.hint("the filesystem may not support id-mapped mounts on this kernel"))?;
    }
    Ok(tree)
}
