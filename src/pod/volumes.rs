//! Where a container's volumes come from: paths of the host, and images.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use super::Pods;
use super::records::Directory;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;
use crate::spec::request::{ContainerRequest, MountSource};

/// The directory below a container's, where images are mounted.
const IMAGES: &str = "images";

impl Pods {
    /// The source of each mount that is asked for, in their order. A path that is not there is made as a directory, as kubelet's other
    /// runtimes do; images are mounted.
    ///
    /// # Errors
    /// A path cannot be made, an image or the path in it is not here.
    pub(super) fn sources(&self, request: &ContainerRequest, directory: &Directory) -> Result<Vec<PathBuf>> {
        let mut sources = Vec::new();
        for (number, mount) in request.mounts.iter().enumerate() {
            sources.push(match &mount.source {
                MountSource::Host(path) => on_host(path)?,
                MountSource::Tmpfs => PathBuf::from("tmpfs"),
                MountSource::Image { image, sub_path } => {
                    let doing =
                        |e: Error| e.doing(format!("mount image {image} at {}", mount.destination.display()));
                    self.of_image(image, sub_path, &directory.join(IMAGES), number).map_err(doing)?
                }
            });
        }
        Ok(sources)
    }

    fn of_image(&self, image: &str, sub_path: &Path, directory: &Path, number: usize) -> Result<PathBuf> {
        let image = self.store.find(image)?;
        let target = directory.join(number.to_string());
        private::make_dirs(&target, private::DIR).doing(|| format!("make {}", target.display()))?;
        let mounted = crate::image::rootfs::mount_read_only(&self.store.lower_dirs(&image), directory)?;
        let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(mounted.as_fd(), "", CWD, &target, whole)
            .doing(|| format!("mount on {}", target.display()))?;
        if sub_path.as_os_str().is_empty() {
            return Ok(target);
        }
        beneath(&target, sub_path)
    }
}

/// Links in it are followed, as kubelet expects.
fn on_host(path: &Path) -> Result<PathBuf> {
    let doing = || format!("find {}", path.display());
    match std::fs::canonicalize(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            private::make_dirs(path, private::SHARED_DIR).doing(|| format!("make {}", path.display()))?;
            std::fs::canonicalize(path).doing(doing)
        }
        other => other.doing(doing),
    }
}

/// A path in an image, its links followed inside the image only.
fn beneath(root: &Path, path: &Path) -> Result<PathBuf> {
    let doing = || format!("find {} in the image", path.display());
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let top = rustix::fs::open(root, flags | OFlags::DIRECTORY, Mode::empty()).doing(doing)?;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found = openat2(&top, path, flags, Mode::empty(), resolve).map_err(|errno| match errno {
        Errno::NOENT | Errno::NOTDIR => Error::new(Kind::NotFound, doing()).because(errno),
        _ => Error::new(Kind::System, doing()).because(errno),
    })?;
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&found));
    std::fs::read_link(link).doing(doing)
}

/// Unmounts what is mounted for a container's volumes; what is not there is fine.
pub(super) fn unmount_all(directory: &Path) {
    let images = std::fs::read_dir(directory.join(IMAGES));
    for image in images.into_iter().flatten().flatten() {
        match unmount(image.path(), UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(errno) => {
                crate::log::warning(&format!("unmount {}: {errno}", image.path().display()));
            }
        }
    }
}
