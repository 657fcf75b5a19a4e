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

/// A file below this is a namespace; see statfs(2) and `NSFS_MAGIC` in linux/magic.h.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Makes a network namespace with loopback up, and pins it at `path`. One that is pinned there already is kept: whoever
/// was interrupted after this step takes it again. The node's user namespace owns it.
///
/// # Errors
/// `Denied` without CAP_SYS_ADMIN, or the path cannot be made.
pub fn create_network(path: &Path) -> Result<()> {
    if is_pinned(path) {
        return Ok(());
    }
    create(&[(libc::CLONE_NEWNET, path)], || Ok(()))
}

/// Makes namespaces of these kinds (`CLONE_NEWNET` with loopback up, `CLONE_NEWIPC`, `CLONE_NEWUTS`), has `set_up` work
/// inside them, and pins each at its path. The node's user namespace owns them.
///
/// # Errors
/// `Denied` without CAP_SYS_ADMIN, a path cannot be made, or what `set_up` answers; nothing stays pinned then.
pub fn create(kinds: &[(i32, &Path)], set_up: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    let flags = kinds.iter().fold(0, |flags, (kind, _)| flags | kind);
    // A thread has namespaces of its own, and leaves nothing behind: no process is needed to make some.
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

/// As [`create`], owned by a new user namespace with these maps, which is one of `kinds` itself.
///
/// # Errors
/// As [`create`], or the maps are refused.
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
        // From outside: who may make a user namespace has all rights over what it owns.
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

/// The name of a kind of namespace below /proc/PID/ns.
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

/// Pins the namespace that `source` is the file of, as `/proc/PID/ns/ipc`, at `path`.
///
/// # Errors
/// `Exists` when a namespace is pinned there, `NotFound` without `source`; nothing is left behind then.
pub fn pin(source: &Path, path: &Path) -> Result<()> {
    let doing = || format!("pin {} at {}", source.display(), path.display());
    if is_pinned(path) {
        return Err(Error::new(Kind::Exists, format!("{}: there is one already", doing())));
    }
    let directory = path.parent().unwrap_or(Path::new("/"));
    private::make_dirs(directory, private::DIR).doing(doing)?;
    private::open_or_create(path, private::FILE).doing(doing)?;
    mount_bind(source, path).doing(doing).inspect_err(|_| {
        let _ = std::fs::remove_file(path);
    })
}

/// Whether a namespace is pinned at `path`.
pub fn is_pinned(path: &Path) -> bool {
    statfs(path).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(NSFS_MAGIC))
}

/// Lets go of what is pinned at `path`; absent is fine. The namespace ends with its last process.
///
/// # Errors
/// The file cannot be removed.
pub fn remove(path: &Path) -> Result<()> {
    let doing = || format!("unpin {}", path.display());
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Not pinned: never finished, or removed half-way.
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(e) => return Err(e).doing(doing),
    }
    match std::fs::remove_file(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.doing(doing),
    }
}

/// Runs `work` in the network namespace pinned at `path`, on a thread of its own: sockets made there belong to it.
///
/// # Errors
/// `NotFound` when nothing is pinned there, or what `work` answers.
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
