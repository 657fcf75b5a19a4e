//! Protects this program's executable from the containers it runs (CVE-2019-5736).
//!
//! A process in a container can open the executable of a process that enters the container, through /proc/PID/exe,
//! and write to it once it no longer runs: the next container would then be started by the attacker's code. Copying
//! the binary to sealed memory at each start, as other runtimes do, costs time and its size in memory. Coracle
//! instead executes itself again from a detached read-only mount of its executable: writing through that mount fails
//! with EROFS. When the last descriptor of the mount is closed, it belongs to no mount namespace, so no process can
//! make it writable again, not even with CAP_SYS_ADMIN.

use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, MemfdFlags, Mode, OFlags, SealFlags, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Doing, Result};
use crate::sys::mount::{ATTR_RDONLY, MountAttr, mount_setattr};
use crate::sys::process::{StringArray, execve_fd};

const SELF: &std::ffi::CStr = c"/proc/self/exe";
const SELF_PATH: &str = "/proc/self/exe";

/// The environment variable with the original path of a program that runs from such a mount.
const PATH: &str = "CORACLE_EXE";

/// The path of this program's executable, from which a newer one may be started. A detached mount has no path:
/// [`ensure`] left it in the environment.
pub fn own_path() -> Option<PathBuf> {
    use std::os::unix::fs::MetadataExt;
    let identity = |path: &Path| std::fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    let link = std::fs::read_link(SELF_PATH).ok()?;
    if identity(&link).is_some_and(|found| Some(found) == identity(Path::new(SELF_PATH))) {
        return Some(link);
    }
    std::env::var_os(PATH).map(PathBuf::from)
}

/// Ensures that nothing can write to this executable through this process; may execute it again, with the same
/// arguments and environment. Call this before anything else, and before any thread is started.
///
/// # Errors
/// Neither a read-only mount nor a sealed copy can be created.
pub fn ensure() -> Result<()> {
    let exe = rustix::fs::open(SELF, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "open /proc/self/exe")?;
    if is_protected(&exe) {
        return Ok(());
    }
    let safe = match read_only_mount() {
        Ok(fd) => fd,
        // The kernel is older than 5.12, or CAP_SYS_ADMIN is missing.
        Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => sealed_copy()?,
        Err(errno) => return Err(errno).doing(|| "mount this executable read-only"),
    };
    let strings =
        |list: Vec<&OsStr>| list.into_iter().filter_map(|s| CString::new(s.as_bytes()).ok()).collect();
    let args: Vec<_> = std::env::args_os().collect();
    let path = std::fs::read_link(SELF_PATH).ok().map(|path| (PATH.into(), path.into_os_string()));
    let env: Vec<_> = std::env::vars_os()
        .filter(|(key, _)| key != PATH)
        .chain(path)
        .map(|(key, value)| [key.as_bytes(), b"=", value.as_bytes()].concat())
        .filter_map(|entry| CString::new(entry).ok())
        .collect();
    let argv = StringArray::new(strings(args.iter().map(AsRef::as_ref).collect()));
    Err(execve_fd(safe.as_fd(), &argv, &StringArray::new(env))).doing(|| "start this executable anew")
}

/// On a read-only filesystem or in a sealed memory file nothing needs to be done, so images with a read-only root pay
/// no cost.
fn is_protected(exe: &OwnedFd) -> bool {
    let read_only = rustix::fs::fstatvfs(exe).is_ok_and(|s| s.f_flag.contains(StatVfsMountFlags::RDONLY));
    read_only || is_sealed()
}

fn is_sealed() -> bool {
    let Ok(file) = rustix::fs::open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    rustix::fs::fcntl_get_seals(&file).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}

fn read_only_mount() -> std::result::Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, SELF, flags)?;
    mount_setattr(tree.as_fd(), false, &MountAttr { set: ATTR_RDONLY, ..MountAttr::default() })?;
    Ok(tree)
}

fn sealed_copy() -> Result<OwnedFd> {
    let from = rustix::fs::open(SELF, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "open /proc/self/exe")?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let copy = rustix::fs::memfd_create(c"coracle", flags).doing(|| "make a file in memory")?;
    while rustix::fs::sendfile(&copy, &from, None, 1 << 30).doing(|| "copy this executable to memory")? > 0 {}
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals).doing(|| "seal the copy of this executable")?;
    Ok(copy)
}
