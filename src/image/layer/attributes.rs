//! Owner, mode, extended attributes and times, in the one order that keeps them all.

use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::place::{At, system};
use crate::error::{Error, Result};
use crate::image::tar::{Entry, Mtime, shown};

/// Things worth telling that do not stop the layer; only the first ones are kept.
#[derive(Debug, Default)]
pub(super) struct Warnings {
    pub(super) kept: Vec<String>,
    dropped: u64,
}

impl Warnings {
    pub(super) fn add(&mut self, warning: String) {
        if self.kept.len() < 50 {
            self.kept.push(warning);
        } else {
            self.dropped += 1;
        }
    }

    pub(super) fn finish(mut self) -> Vec<String> {
        if self.dropped > 0 {
            self.kept.push(format!("and {} more warnings", self.dropped));
        }
        self.kept
    }
}

/// Sets everything on an open regular file whose data is complete: chown first, for it clears setuid and capabilities.
pub(super) fn of_file(fd: &OwnedFd, entry: &Entry, warnings: &mut Warnings) -> Result<()> {
    let (uid, gid) = owner(entry);
    owned(rustix::fs::fchown(fd, uid, gid), entry)?;
    system("set the mode", rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)))?;
    xattrs(entry, warnings, |name, value| rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty()))?;
    system("set the time", rustix::fs::futimens(fd, &times(entry.mtime)))
}

/// Sets everything on a symlink, FIFO or device that was just made, never following it.
pub(super) fn of_node(at: At<'_>, entry: &Entry, with_mode: bool, warnings: &mut Warnings) -> Result<()> {
    chown_at(at, entry)?;
    if with_mode || !entry.xattrs.is_empty() {
        // Neither chmod nor setxattr take an O_PATH descriptor, but both take its name in /proc, which leads to the
        // very inode and no further, also when that is a symlink.
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = system("open what was made", rustix::fs::openat(at.dir, at.name, flags, Mode::empty()))?;
        let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
        if with_mode {
            let mode = Mode::from_raw_mode(entry.mode);
            system("set the mode through /proc", rustix::fs::chmod(&name, mode))?;
        }
        xattrs(entry, warnings, |key, value| rustix::fs::setxattr(&name, key, value, XattrFlags::empty()))?;
    }
    let set = rustix::fs::utimensat(at.dir, at.name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW);
    system("set the time", set)
}

/// Sets the owner of what stands at a place, not following it.
pub(super) fn chown_at(at: At<'_>, entry: &Entry) -> Result<()> {
    let (uid, gid) = owner(entry);
    let set = rustix::fs::chownat(at.dir, at.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
    owned(set, entry)
}

/// Sets the extended attributes of a directory but for the ones that [`late`] keeps.
pub(super) fn of_dir(fd: &OwnedFd, entry: &Entry, warnings: &mut Warnings) -> Result<()> {
    xattrs(entry, warnings, |name, value| {
        if is_late(name) {
            return Ok(());
        }
        rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())
    })
}

/// Attributes that files made in the directory would inherit: they wait for the end.
pub(super) fn late(entry: &Entry) -> Vec<(Vec<u8>, Vec<u8>)> {
    let waits = entry.xattrs.iter().filter(|(name, _)| is_late(name));
    waits.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn is_late(name: &[u8]) -> bool {
    name.starts_with(b"system.")
}

/// A time for both of a file's stamps, so that nothing depends on when the layer was unpacked.
pub(super) fn times(mtime: Mtime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

/// chown(2) says EINVAL for an id that the user namespace does not map: see user_namespaces(7).
fn owned(result: rustix::io::Result<()>, entry: &Entry) -> Result<()> {
    if result == Err(Errno::INVAL) {
        let (uid, gid) = (entry.uid, entry.gid);
        let error = Error::invalid(format!("the owner {uid}:{gid} is not mapped in this user namespace"));
        return Err(error.hint("widen the ranges in /etc/subuid and /etc/subgid"));
    }
    system("set the owner", result)
}

/// Hands the wanted attributes to `set`, capabilities last, and sorts failures into warnings and errors.
fn xattrs(
    entry: &Entry,
    warnings: &mut Warnings,
    mut set: impl FnMut(&[u8], &[u8]) -> rustix::io::Result<()>,
) -> Result<()> {
    const CAPABILITY: &[u8] = b"security.capability";
    let capability = entry.xattrs.get_key_value(CAPABILITY);
    let others = entry.xattrs.iter().filter(|(name, _)| name.as_slice() != CAPABILITY);
    for (name, value) in others.chain(capability) {
        if name == b"security.selinux" {
            // The label of the machine the image was built on.
            continue;
        }
        let say = |what: &str| format!("\"{}\": attribute {} {what}", shown(&entry.name), shown(name));
        if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") {
            warnings.add(say("skipped: it would change what the layer means"));
            continue;
        }
        match set(name, value) {
            Ok(()) => {}
            Err(Errno::PERM | Errno::OPNOTSUPP) => warnings.add(say("lost: it cannot be set here")),
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => system("set an extended attribute", Err(errno))?,
            Err(errno) => {
                let phrase = format!("set the extended attribute {}", shown(name));
                return Err(Error::invalid(phrase).because(errno));
            }
        }
    }
    Ok(())
}
