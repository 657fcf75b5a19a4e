//! An overlay mounted by mount(2): all options in one page, for kernels without `lowerdir+` and for paths that fsconfig(2)
//! does not take (longer than 255 bytes, or with characters that separate options).
//!
//! Each directory is named by its descriptor, from the working directory `/proc/thread-self/fd`: `lowerdir=7:8:9`. So five
//! hundred layers fit, whatever the store's path is. mount(2) attaches what it mounts, so this happens in a mount namespace
//! of a thread of its own, which ends with it; a detached copy remains.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags, OpenTreeFlags, mount, mount_change, open_tree};

use super::Call;

/// What the kernel takes of the options of mount(2): a page with its final NUL. Pages have at least 4 KiB.
const MAX_OPTIONS: usize = 4095;

/// An overlay to be mounted.
pub(super) struct Overlay<'a> {
    /// The layers, topmost first.
    pub(super) lower: &'a [PathBuf],
    /// The writable layer and the work directory, unless it is read-only.
    pub(super) writable: Option<[PathBuf; 2]>,
    pub(super) volatile: bool,
    /// An existing directory, to mount on in the thread's own namespace.
    pub(super) target: &'a Path,
}

impl Overlay<'_> {
    /// Mounts it, detached.
    pub(super) fn mount(&self) -> Call<OwnedFd> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().spawn_scoped(scope, || self.mount_here());
            match thread {
                Ok(thread) => thread.join().unwrap_or(Err(("mount(overlay)", Errno::IO))),
                Err(error) => Err(("clone", Errno::from_io_error(&error).unwrap_or(Errno::AGAIN))),
            }
        })
    }

    fn mount_here(&self) -> Call<OwnedFd> {
        let at = |call| move |errno| (call, errno);
        crate::sys::process::unshare(libc::CLONE_NEWNS | libc::CLONE_FS).map_err(at("unshare"))?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).map_err(at("mount(MS_PRIVATE)"))?;
        // Opened only now: the kernel takes no layer from a mount of another namespace.
        let lower = self.lower.iter().map(|path| open(path)).collect::<Call<Vec<OwnedFd>>>()?;
        let writable = match &self.writable {
            Some([upper, work]) => Some([open(upper)?, open(work)?]),
            None => None,
        };
        rustix::process::chdir("/proc/thread-self/fd").map_err(at("chdir(/proc/thread-self/fd)"))?;
        let options = options(&lower, writable.as_ref(), self.volatile);
        if options.len() > MAX_OPTIONS {
            return Err(("mount(overlay)", Errno::NAMETOOLONG));
        }
        let read_only = MountFlags::RDONLY | MountFlags::NODEV;
        let flags = if writable.is_some() { MountFlags::empty() } else { read_only };
        let options = std::ffi::CString::new(options).map_err(|_| ("mount(overlay)", Errno::INVAL))?;
        mount("overlay", self.target, "overlay", flags, Some(options.as_c_str()))
            .map_err(at("mount(overlay)"))?;
        let detached = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, self.target, detached).map_err(at("open_tree"))
    }
}

fn open(path: &Path) -> Call<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| ("open(layer)", errno))
}

fn options(lower: &[OwnedFd], writable: Option<&[OwnedFd; 2]>, volatile: bool) -> String {
    let name = |fd: &OwnedFd| fd.as_raw_fd().to_string();
    let mut options = format!("lowerdir={}", lower.iter().map(name).collect::<Vec<_>>().join(":"));
    if let Some([upper, work]) = writable {
        options.push_str(&format!(",upperdir={},workdir={}", name(upper), name(work)));
    }
    if volatile {
        options.push_str(",volatile");
    }
    options
}
