//! The socket at containerd's path, where cAdvisor in kubelet asks whose a cgroup is ([`coracle_cri::containerd`]).
//!
//! The socket is bound in the run directory, and the path is a hard link to it. So a link that an earlier daemon has left
//! is known from a socket of containerd, which is never touched, whether anything listens there or not. containerd itself
//! removes what it finds at its path when it starts.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use super::config::Config;
use super::socket::{Bound, listen};
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;
use crate::pod::one_line;

/// The name of the socket in the run directory.
const NAME: &str = "containerd.sock";

/// The listening socket and its link. The link is removed on drop, if it is still ours.
pub(super) struct ContainerdSocket {
    pub(super) listener: UnixListener,
    /// Dropped before the socket, by which it is known.
    _link: Link,
    _bound: Bound,
}

/// Listens where `config` says; none if that is nowhere, or if the path belongs to another program. The latter is logged:
/// only metrics suffer, so it must not keep the daemon from serving.
pub(super) fn open(config: &Config) -> Option<ContainerdSocket> {
    // The socket of the CRI serves the same calls.
    let path = config.containerd_socket().filter(|path| *path != config.socket)?;
    let opened = open_at(&config.run.join(NAME), &path);
    let doing =
        |error: Error| error.doing("serve cAdvisor: metrics of containers have no labels without that");
    opened.map_err(|error| crate::log::warning(&one_line(&doing(error)))).ok()
}

fn open_at(own: &Path, path: &Path) -> Result<ContainerdSocket> {
    remove_link(own, path);
    if let Some(directory) = path.parent() {
        private::make_dirs(directory, 0o711).doing(|| format!("make {}", directory.display()))?;
    }
    let listener = listen(own)?;
    let bound = Bound(own.to_owned());
    let doing = || format!("listen on {}", path.display());
    std::fs::hard_link(own, path).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Error::new(Kind::Exists, doing())
            .because("it exists")
            .hint("if containerd no longer runs here, remove it; metrics.containerd_socket = \"off\" ends this warning"),
        ErrorKind::CrossesDevices => {
            Error::new(Kind::Unsupported, doing()).because("it is not on the filesystem of the run directory")
        }
        _ => Error::new(Kind::System, doing()).because(error),
    })?;
    Ok(ContainerdSocket {
        listener,
        _link: Link { own: own.to_owned(), path: path.to_owned() },
        _bound: bound,
    })
}

struct Link {
    own: PathBuf,
    path: PathBuf,
}

impl Drop for Link {
    fn drop(&mut self) {
        remove_link(&self.own, &self.path);
    }
}

/// Removes `path` if it is a link to `own`.
fn remove_link(own: &Path, path: &Path) {
    let identity = |path: &Path| path.symlink_metadata().map(|meta| (meta.dev(), meta.ino())).ok();
    if identity(own).is_some_and(|own| identity(path) == Some(own)) {
        let _ = std::fs::remove_file(path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_socket_of_another_program_is_left_alone_whether_it_listens_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let (own, path) = (dir.path().join("own.sock"), dir.path().join("containerd/containerd.sock"));
        std::fs::create_dir(dir.path().join("containerd")).unwrap();
        let mut other = Some(UnixListener::bind(&path).unwrap());
        for listens in [true, false] {
            let refused = open_at(&own, &path).err().unwrap();
            assert_eq!(refused.kind(), Kind::Exists, "{refused:?}");
            assert!(!own.exists(), "nothing is left behind");
            assert_eq!(UnixStream::connect(&path).is_ok(), listens);
            other = None;
        }
        drop(other);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "a file").unwrap();
        assert!(open_at(&own, &path).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"a file");
    }

    #[test]
    fn a_stale_link_is_replaced_and_a_clean_end_removes_it() {
        let dir = tempfile::tempdir().unwrap();
        let (own, path) = (dir.path().join("own.sock"), dir.path().join("containerd/containerd.sock"));
        let opened = open_at(&own, &path).unwrap();
        UnixStream::connect(&path).unwrap();
        // As after kill -9: the files stay, and nobody listens.
        let ContainerdSocket { listener, _link, _bound } = opened;
        std::mem::forget((_link, _bound));
        drop(listener);
        UnixStream::connect(&path).unwrap_err();
        let opened = open_at(&own, &path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(opened);
        assert!(!own.exists() && !path.exists());
    }

    #[test]
    fn what_containerd_has_put_there_meanwhile_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (own, path) = (dir.path().join("own.sock"), dir.path().join("containerd.sock"));
        let opened = open_at(&own, &path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _containerd = UnixListener::bind(&path).unwrap();
        drop(opened);
        UnixStream::connect(&path).unwrap();
    }
}
