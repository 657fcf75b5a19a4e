//! Sets owner, mode, extended attributes and times, in the one order that keeps all of them.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::lookup::{At, system};
use crate::error::{Error, Result};
use crate::image::tar::{Entry, Mtime, shown};
use crate::store::index::Attributes;

use super::tree::DirAttributes;

/// Name and value of an extended attribute.
pub(super) type Pair<'a> = (&'a [u8], &'a [u8]);

/// Warnings about a layer that do not stop its unpacking; only the first ones are kept.
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

/// Sets everything on an open regular file whose data is complete: chown first, because it clears setuid and
/// capabilities.
///
/// Returns the attributes that are set now, for the layer's record; so do the functions below.
pub(super) fn of_file<'e>(fd: &OwnedFd, entry: &'e Entry, warnings: &mut Warnings) -> Result<Attributes<'e>> {
    let (uid, gid) = owner(entry);
    owned(rustix::fs::fchown(fd, uid, gid), entry)?;
    system("set the mode", rustix::fs::fchmod(fd, Mode::from_raw_mode(entry.mode)))?;
    let set = |name: &[u8], value: &[u8]| rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty());
    let set = xattrs(entry, warnings, set)?;
    system("set the time", rustix::fs::futimens(fd, &times(entry.mtime)))?;
    recorded(entry, set, || rustix::fs::fstat(fd))
}

/// Sets everything on a symlink, FIFO or device that was just created, never following it.
pub(super) fn of_node<'e>(
    at: At<'_>,
    entry: &'e Entry,
    with_mode: bool,
    warnings: &mut Warnings,
) -> Result<Attributes<'e>> {
    chown_at(at, entry)?;
    let mut set = Vec::new();
    if with_mode {
        // chmod follows links, but the caller has just created this node, and it is not a link.
        let mode = Mode::from_raw_mode(entry.mode);
        system("set the mode", rustix::fs::chmodat(at.dir, at.name, mode, AtFlags::empty()))?;
    }
    if !entry.xattrs.is_empty() {
        let target = Node::new(at)?;
        set = xattrs(entry, warnings, |name, value| target.set_xattr(name, value))?;
    }
    let time = rustix::fs::utimensat(at.dir, at.name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW);
    system("set the time", time)?;
    recorded(entry, set, || rustix::fs::statat(at.dir, at.name, AtFlags::SYMLINK_NOFOLLOW))
}

/// Whether this process only unpacks, and has no /proc.
static ALONE: AtomicBool = AtomicBool::new(false);

/// Allows this module to change the working directory of the process.
pub(in crate::image) fn work_alone() {
    ALONE.store(true, Ordering::Relaxed);
}

/// A symlink, FIFO or device whose extended attributes are set: no call takes a directory and a name for that
/// (setxattrat(2) is new in 6.13), nor an O_PATH descriptor.
enum Node<'a> {
    /// By its name in /proc, which leads to this inode and no further, even if it is a symlink.
    InProc(OwnedFd),
    /// By its name in the working directory.
    Here(At<'a>),
}

impl<'a> Node<'a> {
    fn new(at: At<'a>) -> Result<Self> {
        if ALONE.load(Ordering::Relaxed) {
            system("enter a directory of the layer", rustix::process::fchdir(at.dir))?;
            return Ok(Self::Here(at));
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(at.dir, at.name, flags, Mode::empty());
        system("open the new file", fd).map(Self::InProc)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8]) -> rustix::io::Result<()> {
        match self {
            Self::InProc(fd) => {
                let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
                rustix::fs::setxattr(path, name, value, XattrFlags::empty())
            }
            Self::Here(at) => rustix::fs::lsetxattr(at.name, name, value, XattrFlags::empty()),
        }
    }
}

/// The attributes of a member for the record: those that were set, or those that the kernel stored where these may
/// differ.
fn recorded<'e>(
    entry: &Entry,
    xattrs: Vec<Pair<'e>>,
    stat: impl FnOnce() -> rustix::io::Result<Stat>,
) -> Result<Attributes<'e>> {
    let Entry { mode, uid, gid, mtime, .. } = *entry;
    stored(Attributes { mode, uid, gid, mtime: (mtime.secs, mtime.nanos), xattrs }, stat)
}

/// The same for a finished directory.
pub(super) fn of_described<'s>(fd: &OwnedFd, described: &'s DirAttributes) -> Result<Attributes<'s>> {
    let all = described.xattrs.iter().chain(&described.late_xattrs);
    let xattrs = all.map(|(name, value)| (name.as_slice(), value.as_slice())).collect();
    let (DirAttributes { mode, mtime, .. }, (uid, gid)) = (described, described.owner);
    let attributes = Attributes { mode: *mode, uid, gid, mtime: (mtime.secs, mtime.nanos), xattrs };
    stored(attributes, || rustix::fs::fstat(fd))
}

/// The same for a directory with default attributes.
pub(super) fn as_they_are(fd: &OwnedFd) -> Result<Attributes<'static>> {
    let stat = system("stat the new file", rustix::fs::fstat(fd))?;
    Ok(Attributes {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, stat.st_mtime_nsec as u32),
        xattrs: Vec::new(),
    })
}

/// The stored attributes: an access list changes the mode and may be normalised; a time may be out of the file system's
/// range.
fn stored<'e>(
    mut attributes: Attributes<'e>,
    stat: impl FnOnce() -> rustix::io::Result<Stat>,
) -> Result<Attributes<'e>> {
    let has_list = attributes.xattrs.iter().any(|(name, _)| is_late(name));
    if has_list || i32::try_from(attributes.mtime.0).is_err() {
        let stat = system("stat the new file", stat())?;
        attributes.mode = stat.st_mode & 0o7777;
        attributes.mtime = (stat.st_mtime, stat.st_mtime_nsec as u32);
        attributes.xattrs.retain(|(name, _)| !is_late(name));
    }
    Ok(attributes)
}

/// Sets the owner of the file at `at`, without following it.
pub(super) fn chown_at(at: At<'_>, entry: &Entry) -> Result<()> {
    let (uid, gid) = owner(entry);
    let set = rustix::fs::chownat(at.dir, at.name, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
    owned(set, entry)
}

/// Sets the extended attributes of a directory except those that [`late`] returns.
pub(super) fn of_dir<'e>(fd: &OwnedFd, entry: &'e Entry, warnings: &mut Warnings) -> Result<Vec<Pair<'e>>> {
    let mut set = xattrs(entry, warnings, |name, value| {
        if is_late(name) {
            return Ok(());
        }
        rustix::fs::fsetxattr(fd, name, value, XattrFlags::empty())
    })?;
    set.retain(|(name, _)| !is_late(name));
    Ok(set)
}

/// Attributes that files created in the directory would inherit: they are set at the end.
pub(super) fn late(entry: &Entry) -> Vec<(Vec<u8>, Vec<u8>)> {
    let waits = entry.xattrs.iter().filter(|(name, _)| is_late(name));
    waits.map(|(name, value)| (name.clone(), value.clone())).collect()
}

fn is_late(name: &[u8]) -> bool {
    name.starts_with(b"system.")
}

/// One time for both timestamps of a file, so that nothing depends on when the layer was unpacked.
pub(super) fn times(mtime: Mtime) -> Timestamps {
    let time = Timespec { tv_sec: mtime.secs, tv_nsec: mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn owner(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

/// chown(2) returns EINVAL for an id that the user namespace does not map: see user_namespaces(7).
fn owned(result: rustix::io::Result<()>, entry: &Entry) -> Result<()> {
    if result == Err(Errno::INVAL) {
        let (uid, gid) = (entry.uid, entry.gid);
        let error = Error::invalid(format!("the owner {uid}:{gid} is not mapped in this user namespace"));
        return Err(error.hint("widen the ranges in /etc/subuid and /etc/subgid"));
    }
    system("set the owner", result)
}

/// Passes the attributes to `set`, capabilities last, and sorts failures into warnings and errors.
fn xattrs<'e>(
    entry: &'e Entry,
    warnings: &mut Warnings,
    mut set: impl FnMut(&[u8], &[u8]) -> rustix::io::Result<()>,
) -> Result<Vec<Pair<'e>>> {
    const CAPABILITY: &[u8] = b"security.capability";
    let mut done = Vec::new();
    let capability = entry.xattrs.get_key_value(CAPABILITY);
    let others = entry.xattrs.iter().filter(|(name, _)| name.as_slice() != CAPABILITY);
    for (name, value) in others.chain(capability) {
        if name == b"security.selinux" {
            // The label of the machine that built the image.
            continue;
        }
        let say = |what: &str| format!("\"{}\": attribute {} {what}", shown(&entry.name), shown(name));
        if name.starts_with(b"trusted.") || name.starts_with(b"user.overlay.") {
            warnings.add(say("skipped: it would change what the layer means"));
            continue;
        }
        match set(name, value) {
            Ok(()) => done.push((name.as_slice(), value.as_slice())),
            Err(Errno::PERM | Errno::OPNOTSUPP) => warnings.add(say("lost: it cannot be set here")),
            Err(errno @ (Errno::NOSPC | Errno::DQUOT)) => system("set an extended attribute", Err(errno))?,
            Err(errno) => {
                let phrase = format!("set the extended attribute {}", shown(name));
                return Err(Error::invalid(phrase).because(errno));
            }
        }
    }
    Ok(done)
}
