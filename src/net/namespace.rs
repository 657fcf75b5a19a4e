//! Namespaces pinned as files: nsfs mounts that keep a namespace alive without a process in it.

use std::fs::File;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::statfs;
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_bind, unmount};

use crate::error::{Doing, Error, Kind, Result};
use crate::linux::id_map::IdMaps;
use crate::linux::private;
use crate::linux::user_namespace;
use crate::sys::{loopback, process};

/// A file on a file system of this type is a namespace; see statfs(2) and `NSFS_MAGIC` in linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Creates a network namespace with loopback up, and pins it at `path`. One that is pinned there already is kept, so
/// that an interrupted caller can retry. The node's user namespace owns it.
///
/// # Errors
/// `Denied` without CAP_SYS_ADMIN, or when the path cannot be created.
pub fn create_network(path: &Path) -> Result<()> {
    if is_pinned(path) {
        return Ok(());
    }
    create(&[(libc::CLONE_NEWNET, path)], || Ok(()))
}

/// Creates namespaces of these kinds (`CLONE_NEWNET` with loopback up, `CLONE_NEWIPC`, `CLONE_NEWUTS`), runs `set_up`
/// inside them, and pins each at its path. The node's user namespace owns them.
///
/// # Errors
/// `Denied` without CAP_SYS_ADMIN, when a path cannot be created, or the error of `set_up`; nothing stays pinned then.
pub fn create(kinds: &[(i32, &Path)], set_up: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let flags = kinds.iter().fold(0, |flags, (kind, _)| flags | kind);
    // A thread has its own namespaces and leaves nothing behind, so no process is needed to create some.
    let made = on_a_thread(|| {
        process::unshare(flags).doing(|| "make namespaces")?;
        if flags & libc::CLONE_NEWNET != 0 {
            loopback::bring_up().doing(|| "bring up the loopback interface")?;
        }
        set_up()?;
        kinds
            .iter()
            .try_for_each(|(kind, path)| pin(&Path::new("/proc/thread-self/ns").join(name_of(*kind)), path))
    });
    made.inspect_err(|_| kinds.iter().for_each(|(_, path)| drop(remove(path))))
}

/// Like [`create`], but a new user namespace with these id maps, which is one of `kinds` itself, owns the others.
///
/// # Errors
/// Those of [`create`], or the kernel refuses the maps.
pub fn create_owned(
    kinds: &[(i32, &Path)],
    maps: &IdMaps,
    set_up: impl FnOnce() -> Result<()> + Send,
) -> Result<()> {
    let flags = kinds.iter().fold(0, |flags, (kind, _)| flags | kind);
    let made = user_namespace::with_namespaces(flags, maps, |pid| {
        for (kind, path) in kinds {
            pin(&Path::new("/proc").join(format!("{pid}/ns/{}", name_of(*kind))), path)?;
        }
        // The maps are written from outside: whoever creates a user namespace has all rights over what it owns.
        on_a_thread(|| {
            for (kind, path) in kinds.iter().filter(|(kind, _)| *kind != libc::CLONE_NEWUSER) {
                let file = File::open(path).doing(|| format!("open {}", path.display()))?;
                process::setns(file.as_fd(), *kind).doing(|| format!("enter {}", path.display()))?;
            }
            if flags & libc::CLONE_NEWNET != 0 {
                loopback::bring_up().doing(|| "bring up the loopback interface")?;
            }
            set_up()
        })
    });
    made.inspect_err(|_| kinds.iter().for_each(|(_, path)| drop(remove(path))))
}

/// The name that a kind of namespace has in /proc/PID/ns.
pub fn name_of(kind: i32) -> &'static str {
    match kind {
        libc::CLONE_NEWNET => "net",
        libc::CLONE_NEWIPC => "ipc",
        libc::CLONE_NEWUTS => "uts",
        libc::CLONE_NEWPID => "pid",
        libc::CLONE_NEWUSER => "user",
        libc::CLONE_NEWCGROUP => "cgroup",
        _ => "mnt",
    }
}

/// Pins the namespace file `source`, such as `/proc/PID/ns/ipc`, at `path`.
///
/// # Errors
/// `Exists` when a namespace is pinned there, `NotFound` without `source`; nothing is left behind then.
pub fn pin(source: &Path, path: &Path) -> Result<()> {
    let doing = || format!("pin {} at {}", source.display(), path.display());
    if is_pinned(path) {
        return Err(Error::new(Kind::Exists, format!("{}: a namespace is pinned there already", doing())));
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    private::make_dirs(directory, private::DIR).doing(doing)?;
    private::open_or_create(path, private::FILE).doing(doing)?;
    mount_bind(source, path).doing(doing).inspect_err(|_| {
        let _ = std::fs::remove_file(path);
    })
}

/// Returns whether a namespace is pinned at `path`.
pub fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(NSFS_MAGIC))
}

/// Unpins the namespace at `path`; a missing file is no error. The namespace ends with its last process.
///
/// # Errors
/// When the file cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    let doing = || format!("unpin {}", path.display());
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Not pinned: creation was interrupted, or the removal was.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(e) => return Err(e).doing(doing),
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.doing(doing),
    }
}

/// Runs `work` in the network namespace pinned at `path`, on a thread of its own: sockets created there belong to it.
///
/// # Errors
/// `NotFound` when nothing is pinned there, or the error of `work`.
pub fn within<T: Send>(path: &Path, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = File::open(path).doing(|| format!("open the network namespace {}", path.display()))?;
    on_a_thread(|| {
        process::setns(file.as_fd(), libc::CLONE_NEWNET)
            .doing(|| format!("enter the network namespace {}", path.display()))?;
        work()
    })
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, work);
        let ended = thread.doing(|| "start a thread")?.join();
        ended.unwrap_or_else(|_| Err(Error::new(Kind::Bug, "the thread in the network namespace panicked")))
    })
}
