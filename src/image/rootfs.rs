//! The root file system of a container: the image's layers below a writable one, as an overlay mount.
//!
//! The mount is detached: it is held by a descriptor, which the container's first process attaches in its own mount
//! namespace. So the mount is not visible on the host, and a process that is killed leaves none behind.
//!
//! There are two ways, the faster first: layers one by one (`lowerdir+`), and all in the page of options of mount(2).

mod page;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    mount as mount_fs, mount_change, move_mount, open_tree,
};

use crate::error::{Doing, Error, Kind, Result};
use crate::linux::id_map::IdMaps;
use crate::linux::private;
use crate::linux::user_namespace;
use crate::sys::mount::{ATTR_IDMAP, MountAttr, mount_setattr};
use page::Overlay;

/// fsconfig(2) accepts strings of up to 255 bytes.
const MAX_OPTION: usize = 255;

/// Mounts the layers `lower`, topmost first, below a writable layer in `directory`. A `volatile` mount is never synced:
/// it saves writes to flash for containers whose writable layer is deleted with them.
///
/// # Errors
/// When the kernel has no overlay file system, or the store is on a file system that cannot hold a writable layer.
pub fn mount(lower: &[PathBuf], directory: &Path, volatile: bool) -> Result<OwnedFd> {
    make_writable(directory)?;
    let mounted = mount_with(lower, directory, volatile);
    // KERNEL(5.10): volatile is newer than the rest.
    let mounted = match mounted {
        Err((_, Errno::INVAL)) if volatile => mount_with(lower, directory, false),
        other => other,
    };
    mounted.map_err(|(call, errno)| explain(call, errno, directory))
}

/// Creates the directories of a writable layer.
fn make_writable(directory: &Path) -> Result<()> {
    for (name, mode) in [("upper", 0o755), ("work", 0o700)] {
        let made = directory.join(name);
        match private::make_dir(&made, mode) {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.doing(|| format!("make {}", made.display()))?,
        }
    }
    Ok(())
}

type Call<T> = std::result::Result<T, (&'static str, Errno)>;

fn mount_with(lower: &[PathBuf], directory: &Path, volatile: bool) -> Call<OwnedFd> {
    let lower = &topmost(lower);
    let writable = ["upper", "work"].map(|name| directory.join(name));
    let made = if writable.iter().all(|path| is_plain(path)) {
        mount_by_fsconfig(lower, Some(&writable), volatile)
    } else {
        Err(UNTRIED)
    };
    or_by_page(made, Overlay { lower, writable: Some(writable), volatile, target: directory })
}

/// The call that makes the file system of what was configured.
const CREATE: &str = "fsconfig(CMD_CREATE)";

/// What a way of mounting answers that cannot take these paths, before it asks the kernel.
const UNTRIED: (&str, Errno) = ("fsconfig", Errno::NAMETOOLONG);

/// Mounts by mount(2) what fsconfig(2) cannot: KERNEL(5.2) is its first, and what it takes is short.
fn or_by_page(made: Call<OwnedFd>, overlay: Overlay<'_>) -> Call<OwnedFd> {
    match made {
        Err((_, Errno::NAMETOOLONG | Errno::NOSYS)) => overlay.mount(),
        // Before 6.5 the kernel keeps all parameters as they come and looks at them only here.
        Err((CREATE, Errno::INVAL)) => overlay.mount(),
        other => other,
    }
}

/// Whether fsconfig(2) takes a path as it is.
fn is_plain(path: &Path) -> bool {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.len() <= MAX_OPTION && !bytes.iter().any(|byte| b",:\\".contains(byte))
}

fn mount_by_fsconfig(lower: &[PathBuf], writable: Option<&[PathBuf; 2]>, volatile: bool) -> Call<OwnedFd> {
    let at = |call| move |errno| (call, errno);
    let context = fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(at("fsopen(overlay)"))?;
    fsconfig_set_string(&context, c"source", c"overlay").map_err(at("fsconfig(source)"))?;
    set_lower(&context, lower).map_err(at("fsconfig(lowerdir)"))?;
    if let Some([upper, work]) = writable {
        fsconfig_set_string(&context, c"upperdir", upper).map_err(at("fsconfig(upperdir)"))?;
        fsconfig_set_string(&context, c"workdir", work).map_err(at("fsconfig(workdir)"))?;
    }
    if volatile {
        fsconfig_set_flag(&context, c"volatile").map_err(at("fsconfig(volatile)"))?;
    }
    fsconfig_create(&context).map_err(at(CREATE))?;
    let attributes = match writable {
        Some(_) => MountAttrFlags::empty(),
        None => MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV,
    };
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map_err(at("fsmount"))
}

/// Adds one layer at a time, where the kernel can: KERNEL(6.7). `ENAMETOOLONG` where it cannot.
fn set_lower(context: &OwnedFd, lower: &[PathBuf]) -> std::result::Result<(), Errno> {
    if !lower.iter().all(|layer| is_plain(layer)) {
        return Err(Errno::NAMETOOLONG);
    }
    let one_by_one = || lower.iter().try_for_each(|layer| fsconfig_set_string(context, c"lowerdir+", layer));
    match one_by_one() {
        Err(Errno::INVAL) => Err(Errno::NAMETOOLONG),
        other => other,
    }
}

/// The layers without those that occur again further up: what the topmost occurrence has covers them, and the kernel takes
/// no directory twice (ELOOP). An occurrence below hides nothing that the one above does not hide as well.
fn topmost(lower: &[PathBuf]) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::with_capacity(lower.len());
    for layer in lower {
        if !kept.contains(layer) {
            kept.push(layer.clone());
        }
    }
    kept
}

/// Mounts layers, topmost first, without a writable one. `directory` belongs to the caller: an overlay needs two
/// layers, so an empty directory is created there.
///
/// # Errors
/// Those of [`mount`].
pub fn mount_read_only(lower: &[PathBuf], directory: &Path) -> Result<OwnedFd> {
    let empty = directory.join("empty");
    private::make_dirs(&empty, private::SHARED_DIR).doing(|| format!("make {}", empty.display()))?;
    let lower: Vec<PathBuf> = lower.iter().cloned().chain([empty]).collect();
    let lower = topmost(&lower);
    let made = mount_by_fsconfig(&lower, None, false);
    or_by_page(made, Overlay { lower: &lower, writable: None, volatile: false, target: directory })
        .map_err(|(call, errno)| explain(call, errno, directory))
}

/// Like [`mount`], for a container with mapped ids, whose root is `root` outside: it sees the layers' owners as if
/// nothing were mapped. Files that it writes have the mapped owners on disk. KERNEL(5.19)
///
/// # Errors
/// Those of [`mount`], and when the file system of the store does not support id-mapped mounts.
pub fn mount_mapped(lower: &[PathBuf], directory: &Path, maps: &IdMaps, root: (u32, u32)) -> Result<OwnedFd> {
    make_writable(directory)?;
    // Before they are mapped: the kernel knows a directory also by another mount.
    let lower = &topmost(lower);
    let upper = directory.join("upper");
    std::os::unix::fs::chown(&upper, Some(root.0), Some(root.1))
        .doing(|| format!("give {} to the container's root", upper.display()))?;
    let namespace = user_namespace::open(maps)?;
    // The kernel requires mounted layers, so they are mounted in a mount namespace that ends with this thread.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, || {
            crate::sys::process::unshare(libc::CLONE_NEWNS | libc::CLONE_FS)
                .doing(|| "make a mount namespace")?;
            let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
            mount_change("/", private).doing(|| "make a mount namespace private")?;
            let base = directory.join("mapped");
            private::make_dirs(&base, private::DIR).doing(|| format!("make {}", base.display()))?;
            mount_fs("tmpfs", &base, "tmpfs", MountFlags::empty(), c"mode=700")
                .doing(|| format!("mount {}", base.display()))?;
            let mapped = |(number, source): (usize, &PathBuf)| {
                let target = base.join(number.to_string());
                map_at(source, &target, &namespace).map(|()| target)
            };
            let lower = lower.iter().enumerate().map(mapped).collect::<Result<Vec<_>>>()?;
            mount_with(&lower, directory, true).map_err(|(call, errno)| explain(call, errno, directory))
        });
        let ended = thread.doing(|| "start a thread to mount layers")?.join();
        ended.unwrap_or_else(|_| Err(Error::new(Kind::Bug, "the thread that mounts layers panicked")))
    })
}

/// Mounts `source` with mapped ids on `target`, which is created.
fn map_at(source: &Path, target: &Path, namespace: &OwnedFd) -> Result<()> {
    let doing = || format!("map the owners of {}", source.display());
    private::make_dir(target, private::DIR).doing(|| format!("make {}", target.display()))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, source, flags).doing(doing)?;
    let userns_fd = u64::try_from(namespace.as_raw_fd()).unwrap_or_default();
    let attr = MountAttr { set: ATTR_IDMAP, userns_fd, ..MountAttr::default() };
    mount_setattr(tree.as_fd(), false, &attr)
        .doing(doing)
        .map_err(|e| e.hint("the store's file system may not support id-mapped mounts on this kernel"))?;
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).doing(doing)
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
            .hint("the store may be on a filesystem that overlay cannot write to, such as another overlay"),
        Errno::NAMETOOLONG => error.hint("an image may have up to 500 layers"),
        Errno::PERM => error.hint("run as root"),
        _ => error,
    }
}
