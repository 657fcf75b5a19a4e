//! User namespaces that a short-lived child keeps alive. user_namespaces(7)

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use super::id_map::IdMaps;
use crate::error::{Doing, Result};
use crate::sys::process;

/// Creates a user namespace with the maps, for mount_setattr(2). A child keeps it alive until it is opened.
///
/// # Errors
/// The namespace cannot be created, or the kernel refuses the maps.
pub fn open(maps: &IdMaps) -> Result<OwnedFd> {
    with_namespaces(libc::CLONE_NEWUSER, maps, |pid| {
        let path = format!("/proc/{pid}/ns/user");
        File::open(&path).doing(|| format!("open {path}")).map(OwnedFd::from)
    })
}

/// Creates namespaces of these kinds, owned by a user namespace with the maps, and keeps them alive while `use_them`
/// runs. `use_them` gets the pid of a child inside.
///
/// # Errors
/// The namespaces cannot be created, or the error of `use_them`.
pub fn with_namespaces<T>(kinds: i32, maps: &IdMaps, use_them: impl FnOnce(i32) -> Result<T>) -> Result<T> {
    let (ours, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).doing(|| "make a pipe")?;
    let flags = u64::from((kinds | libc::CLONE_NEWUSER).cast_unsigned());
    let holder = process::spawn(flags, None, || {
        // Reads until the parent is done or has died: then the pipe has no writer any more.
        let mut byte = [0];
        process::close_inherited(theirs.as_raw_fd());
        let _ = rustix::io::read(&ours, &mut byte);
        process::exit_now(0)
    })
    .doing(|| "make a user namespace")?;
    let result = write_maps(holder.pid, maps).and_then(|()| use_them(holder.pid));
    drop(theirs);
    let _ = rustix::process::waitpid(
        rustix::process::Pid::from_raw(holder.pid),
        rustix::process::WaitOptions::empty(),
    );
    result
}

/// Writes the id maps of a process's new user namespace.
///
/// # Errors
/// The kernel refuses the maps: they overlap, the user may not set them, or the ids do not exist.
pub fn write_maps(pid: i32, maps: &IdMaps) -> Result<()> {
    for (file, text) in [("uid_map", &maps.uid), ("gid_map", &maps.gid)] {
        let path = format!("/proc/{pid}/{file}");
        std::fs::write(&path, text).doing(|| format!("write the id mapping {:?} to {path}", text.trim_end())).map_err(|e| {
            e.hint("check linux.uidMappings and linux.gidMappings for overlaps and for ids of the host that exist")
        })?;
    }
    Ok(())
}
