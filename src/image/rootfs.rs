//! The root of a container from an image: its layers under a writable one, as an overlay mount.
//!
//! The mount is attached nowhere: it lives in a descriptor that the container's first process attaches in its own
//! mount namespace. So the host sees no mount, and a process that is killed leaves none behind.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen,
};

use crate::error::{Doing, Error, Kind, Result};

/// fsconfig(2) takes strings of up to 255 bytes.
const LONGEST: usize = 255;

/// Mounts the layers `lower`, topmost first, below a writable layer in `directory`. A `volatile` one is never synced:
/// for containers whose writable layer goes with them, so that flash is not worn for nothing.
///
/// # Errors
/// The kernel has no overlay filesystem, or the store lies on a filesystem that cannot hold a writable layer.
pub fn mount(lower: &[PathBuf], directory: &Path, volatile: bool) -> Result<OwnedFd> {
    let (upper, work) = (directory.join("upper"), directory.join("work"));
    for made in [&upper, &work] {
        let mode = if *made == upper { 0o755 } else { 0o700 };
        match std::fs::DirBuilder::new().mode(mode).create(made) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.doing(|| format!("make {}", made.display()))?,
        }
    }
    let mounted = mount_with(lower, directory, volatile);
    // KERNEL(5.10): volatile is younger than the rest.
    let mounted = match mounted {
        Err((_, Errno::INVAL)) if volatile => mount_with(lower, directory, false),
        other => other,
    };
    mounted.map_err(|(call, errno)| explain(call, errno, directory))
}

type Call<T> = std::result::Result<T, (&'static str, Errno)>;

fn mount_with(lower: &[PathBuf], directory: &Path, volatile: bool) -> Call<OwnedFd> {
    let at = |call| move |errno| (call, errno);
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen(overlay)"))?;
    fsconfig_set_string(&context, c"source", c"overlay").map_err(at("fsconfig(source)"))?;
    set_lower(&context, lower).map_err(at("fsconfig(lowerdir)"))?;
    for (key, name) in [(c"upperdir", "upper"), (c"workdir", "work")] {
        fsconfig_set_string(&context, key, directory.join(name)).map_err(at("fsconfig(upperdir)"))?;
    }
    if volatile {
        fsconfig_set_flag(&context, c"volatile").map_err(at("fsconfig(volatile)"))?;
    }
    fsconfig_create(&context).map_err(at("fsconfig(CMD_CREATE)"))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).map_err(at("fsmount"))
}

/// One layer at a time where the kernel can (KERNEL(6.5)); before it all in one string, which is short enough for some
/// forty layers because it is relative to the directory above them.
fn set_lower(context: &OwnedFd, lower: &[PathBuf]) -> std::result::Result<(), Errno> {
    let one_by_one = || lower.iter().try_for_each(|layer| fsconfig_set_string(context, c"lowerdir+", layer));
    match one_by_one() {
        Err(Errno::INVAL) => set_joined(context, lower),
        other => other,
    }
}

fn set_joined(context: &OwnedFd, lower: &[PathBuf]) -> std::result::Result<(), Errno> {
    // <store>/layers/<n>/fs
    let Some(base) = lower.first().and_then(|l| l.parent()?.parent()) else { return Err(Errno::INVAL) };
    let relative: Option<Vec<String>> =
        lower.iter().map(|l| Some(l.strip_prefix(base).ok()?.to_string_lossy().into_owned())).collect();
    let joined = relative.ok_or(Errno::INVAL)?.join(":");
    if joined.len() > LONGEST {
        return Err(Errno::NAMETOOLONG);
    }
    let here = std::env::current_dir().map_err(|_| Errno::NOENT)?;
    rustix::process::chdir(base)?;
    let answer = fsconfig_set_string(context, c"lowerdir", joined);
    rustix::process::chdir(&here)?;
    answer
}

fn explain(call: &'static str, errno: Errno, directory: &Path) -> Error {
    let kind = if errno == Errno::NODEV {
        Kind::Unsupported
    } else {
        crate::error::kind_of_errno(errno.raw_os_error())
    };
    let cause = crate::sys::Error::new(call, errno);
    let error = Error::new(kind, format!("mount the layers below {}", directory.display())).because(cause);
    match errno {
        Errno::NODEV => error.hint("this kernel has no overlay filesystem: try `modprobe overlay`"),
        Errno::INVAL => error
            .hint("the store may lie on a filesystem that overlay cannot write to, such as another overlay"),
        Errno::NAMETOOLONG => error.hint("images of more than some forty layers need Linux 6.5"),
        Errno::PERM => error.hint("run as root"),
        _ => error,
    }
}
