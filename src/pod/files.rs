//! What a pod's containers get bound: /dev/shm, /etc/resolv.conf, /etc/hostname, /etc/hosts.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use coracle_cri::convert::{SandboxWishes, Scope};
use oci_spec::runtime::Mount;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use super::records::Directory;
use crate::error::{Doing, Result};
use crate::net::namespace;

/// Namespaces that a pod may have pinned.
const PINNED: [&str; 5] = ["pid", "net", "ipc", "uts", "user"];

/// Writes a pod's files, and mounts its shared memory.
///
/// # Errors
/// They cannot be made.
pub(super) fn put_up(wishes: &SandboxWishes, directory: &Directory) -> Result<()> {
    let host = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let hostname = wishes.hostname.clone().unwrap_or_else(own_hostname);
    let resolv_conf = wishes.resolv_conf.clone().unwrap_or_else(|| host("/etc/resolv.conf"));
    let texts =
        [("hostname", format!("{hostname}\n")), ("resolv.conf", resolv_conf), ("hosts", host("/etc/hosts"))];
    for (name, text) in texts {
        let path = directory.join(name);
        std::fs::write(&path, text).doing(|| format!("write {}", path.display()))?;
    }
    if wishes.namespaces.ipc == Scope::Pod {
        let shm = directory.join("shm");
        let doing = || format!("mount shared memory on {}", shm.display());
        DirBuilder::new().mode(0o1777).create(&shm).doing(doing)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        // docker's and containerd's size.
        mount("shm", &shm, "tmpfs", flags, c"mode=1777,size=65536k").doing(doing)?;
    }
    Ok(())
}

fn own_hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// Takes down what is mounted or pinned below a pod's directory; what is not there is fine. What fails is said in the log:
/// the rest goes on.
pub(super) fn take_down(directory: &Directory) {
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
pub(super) fn mounts(wishes: &SandboxWishes, directory: &Directory, read_only: bool) -> Vec<Mount> {
    let shm = match wishes.namespaces.ipc {
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

/// Makes a directory for logs, as kubelet makes its own.
///
/// # Errors
/// It cannot be made.
pub(super) fn make_log_directory(path: &Path) -> Result<()> {
    let made = DirBuilder::new().mode(0o755).recursive(true).create(path);
    made.doing(|| format!("make the log directory {}", path.display()))
}
