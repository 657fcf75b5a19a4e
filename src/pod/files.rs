//! Files that are bind-mounted into a pod's containers: /dev/shm, /etc/resolv.conf, /etc/hostname, /etc/hosts.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::records::Directory;
use super::request_from_cri::SandboxRequest;
use crate::error::{Doing, Error, Result};
use crate::linux::private;
use crate::net::namespace;
use crate::spec::request::Scope;

/// The names of the namespaces that a pod may have pinned.
const PINNED: [&str; 5] = ["pid", "net", "ipc", "uts", "user"];

/// Writes a pod's files, and mounts its shared memory.
///
/// # Errors
/// They cannot be created.
pub(super) fn make(request: &SandboxRequest, directory: &Directory) -> Result<()> {
    let host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let hostname = request.hostname.clone().unwrap_or_else(own_hostname);
    let resolv_conf = request.resolv_conf.clone().unwrap_or_else(|| host("/etc/resolv.conf"));
    let texts =
        [("hostname", format!("{hostname}\n")), ("resolv.conf", resolv_conf), ("hosts", host("/etc/hosts"))];
    for (name, text) in texts {
        let path = directory.join(name);
        private::write(&path, text, private::SHARED_FILE).doing(|| format!("write {}", path.display()))?;
    }
    if request.namespaces.ipc == Scope::Pod {
        let shm = directory.join("shm");
        let doing = || format!("mount shared memory on {}", shm.display());
        private::make_dir(&shm, 0o1777).doing(doing)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        // The size that docker and containerd use.
        mount("shm", &shm, "tmpfs", flags, c"mode=1777,size=65536k").doing(doing)?;
    }
    Ok(())
}

fn own_hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Unmounts and unpins what is mounted or pinned below a pod's directory, if anything is. A failure is logged and does not
/// stop the rest.
pub(super) fn remove(directory: &Directory) {
    let shm = directory.join("shm");
    let unmounted = match unmount(&shm, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::NOENT | Errno::INVAL) => Ok(()),
        Err(errno) => Err(errno).doing(|| format!("unmount {}", shm.display())),
    };
    let unpinned = PINNED.iter().map(|name| namespace::remove(&directory.join(name)));
    for error in std::iter::once(unmounted).chain(unpinned).filter_map(Result::err) {
        crate::log::warning(&error.chain());
    }
}

/// The pod's files, as mounts of a container.
pub(super) fn mounts(request: &SandboxRequest, directory: &Directory, read_only: bool) -> Vec<Mount> {
    let shm = match request.namespaces.ipc {
        Scope::Pod => directory.join("shm"),
        _ => PathBuf::from("/dev/shm"),
    };
    let access = if read_only { "ro" } else { "rw" };
    let files = ["resolv.conf", "hostname", "hosts"]
        .map(|name| bind(directory.join(name), Path::new("/etc").join(name), access));
    std::iter::once(bind(shm, PathBuf::from("/dev/shm"), "rw")).chain(files).collect()
}

fn bind(source: PathBuf, destination: PathBuf, access: &str) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(source))
        .set_destination(destination)
        .set_options(Some(["rbind", "rprivate", access].map(str::to_owned).into()));
    mount
}

/// Creates the directories between a pod's log directory and a container's log in it.
///
/// # Errors
/// They cannot be created, or one of them is a symbolic link.
pub(super) fn make_log_directories(directory: &Path, log: &Path) -> Result<()> {
    make_log_directory(directory)?;
    let below = below(directory, log)?.parent().unwrap_or(Path::new(""));
    private::make_dirs_below(directory, below, private::SHARED_DIR)
        .doing(|| format!("make the directory of the log {}", log.display()))
}

/// The path by which the keeper opens a container's log. The keeper follows no symbolic link, so those that lead to the
/// pod's log directory, which the node's administrator set up, are resolved here. A path that cannot be a log is refused
/// here because the keeper cannot report it to kubelet.
///
/// # Errors
/// `Invalid` for a path that is not a regular file, or is behind a symbolic link; it cannot be opened.
pub(super) fn log(directory: &Path, log: &Path) -> Result<PathBuf> {
    let doing = || format!("open the log {}", log.display());
    let path = std::fs::canonicalize(directory).doing(doing)?.join(below(directory, log)?);
    match private::open_log(&path) {
        // A full disk loses log lines but must not prevent the start: there will be room again.
        Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => Ok(path),
        Err(error) if error.kind() == ErrorKind::InvalidInput => Err(Error::invalid(doing()).because(error)),
        opened => opened.doing(doing).map(|_| path),
    }
}

fn below<'a>(directory: &Path, log: &'a Path) -> Result<&'a Path> {
    let outside = |_| Error::invalid(format!("the log {} is not in {}", log.display(), directory.display()));
    log.strip_prefix(directory).map_err(outside)
}

/// Creates a directory for logs with the mode that kubelet uses for its own.
///
/// # Errors
/// It cannot be created.
pub(super) fn make_log_directory(path: &Path) -> Result<()> {
    private::make_dirs(path, private::SHARED_DIR)
        .doing(|| format!("make the log directory {}", path.display()))
}
