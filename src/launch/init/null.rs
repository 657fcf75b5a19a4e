//! The payload's null device: never the host's own inode, which root of a container without a user namespace could
//! chmod(2) or chown(2) for every process.

use std::mem::forget;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, Stat, fstat, mknodat, openat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use super::{At, Init, Outcome, mount, root};
use crate::launch::wire::Op;
use crate::sys::mount::{ATTR_NOEXEC, ATTR_NOSUID, ATTR_RDONLY, MountAttr};
use crate::sys::process::dup_onto;

/// Readable and writable for all users, as every /dev/null.
const MODE: u32 = 0o666;

impl Init<'_> {
    /// Reopens the standard streams that are a null device, as the container's /dev/null or as a new one.
    pub(super) fn private_null(&self) -> Outcome {
        let mut replacement = None;
        for (number, stream) in
            (0..).zip([rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()])
        {
            let Ok(host) = fstat(stream) else { continue };
            if !is_null(&host) {
                continue;
            }
            if replacement.is_none() {
                replacement = private_stream(&host)?;
            }
            let Some(stream) = &replacement else { return Ok(()) };
            dup_onto(stream.as_fd(), number).at(Op::Dup)?;
        }
        forget(replacement);
        Ok(())
    }

    /// The source of masked files, as a detached mount. It is read-only if the kernel can do that before it is
    /// attached (5.12); otherwise the attributes are returned, to be set after. Verified to be a null device
    /// (CVE-2025-31133).
    pub(super) fn null_mask(&self) -> Outcome<(OwnedFd, Option<MountAttr>)> {
        let host = host_null()?;
        let host_stat = fstat(&host).at(Op::Stat)?;
        let tree = match open_null(self.root()?, OFlags::PATH, &host_stat)? {
            Some(own) => {
                let tree = mount::clone_of(own.as_fd(), false)?;
                forget(own);
                tree
            }
            // In a user namespace no process inside owns the host's node, so none can change it.
            None if self.plan.namespaces.has_user() => mount::clone_of(host.as_fd(), false)?,
            None => match made_mask()? {
                Some(tree) => tree,
                // Only through this read-only mount, and whoever mounts the host's /dev/null has it anyhow.
                None => mount::clone_of(host.as_fd(), false)?,
            },
        };
        forget(host);
        let attr = MountAttr { set: ATTR_RDONLY | ATTR_NOSUID | ATTR_NOEXEC, ..MountAttr::default() };
        let late = mount::set_attr(tree.as_fd(), &attr, false)?;
        Ok((tree, late))
    }
}

/// A stream whose inode is not the host's; none if no node can be created.
fn private_stream(host: &Stat) -> Outcome<Option<OwnedFd>> {
    let root = root::open_root()?;
    let own = open_null(root.as_fd(), OFlags::RDWR | OFlags::NOCTTY, host)?;
    forget(root);
    match own {
        Some(own) => Ok(Some(own)),
        None => made_null()?.map(|made| open_made(&made, OFlags::RDWR)).transpose(),
    }
}

/// The container's /dev/null; none if it is missing, another kind of file, or the host's inode. A planted terminal
/// does not become our controlling terminal (O_NOCTTY), and opening a FIFO for reading and writing does not block.
fn open_null(root: BorrowedFd<'_>, flags: OFlags, host: &Stat) -> Outcome<Option<OwnedFd>> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let Ok(opened) = rustix::fs::openat2(root, c"dev/null", flags, Mode::empty(), resolve) else {
        return Ok(None);
    };
    let stat = fstat(&opened).at(Op::Stat)?;
    let is_own = is_null(&stat) && (stat.st_dev, stat.st_ino) != (host.st_dev, host.st_ino);
    Ok(is_own.then_some(opened))
}

/// A detached tmpfs with a null device `null`; none if mknod(2) is not allowed.
fn made_null() -> Outcome<Option<OwnedFd>> {
    let context = match fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC) {
        Err(Errno::PERM) => return Ok(None),
        other => other.at(Op::FsOpen)?,
    };
    fsconfig_create(&context).at(Op::FsCreate)?;
    let attr = MountAttrFlags::from_bits_retain((ATTR_NOSUID | ATTR_NOEXEC) as u32);
    let tree = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attr).at(Op::FsMount)?;
    forget(context);
    let device = rustix::fs::makedev(1, 3);
    match mknodat(&tree, c"null", FileType::CharacterDevice, Mode::from_raw_mode(MODE), device) {
        Err(Errno::PERM) => Ok(None),
        other => other.at(Op::Mknod).map(|()| Some(tree)),
    }
}

/// A mount of a new null device; none if none can be made, or a mount that is not attached cannot be cloned. KERNEL(6.15)
fn made_mask() -> Outcome<Option<OwnedFd>> {
    let Some(made) = made_null()? else { return Ok(None) };
    let node = open_made(&made, OFlags::PATH)?;
    // While `made` is open: a mount that nobody holds is taken apart, and cannot be cloned.
    let cloned = mount::clone_of(node.as_fd(), false);
    forget(node);
    forget(made);
    match cloned {
        Err((_, Errno::INVAL)) => Ok(None),
        other => other.map(Some),
    }
}

fn open_made(tree: &OwnedFd, flags: OFlags) -> Outcome<OwnedFd> {
    openat(tree, c"null", flags | OFlags::CLOEXEC, Mode::empty()).at(Op::Open)
}

fn host_null() -> Outcome<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let null = rustix::fs::open(c"/dev/null", flags, Mode::empty()).at(Op::Open)?;
    if is_null(&fstat(&null).at(Op::Stat)?) { Ok(null) } else { Err((Op::Stat, Errno::NODEV)) }
}

/// Whether it is character device 1:3.
fn is_null(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice
        && stat.st_rdev == rustix::fs::makedev(1, 3)
}
