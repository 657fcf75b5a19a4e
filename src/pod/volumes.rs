//! The sources of a container's volumes: host paths and images.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};

use super::records::Directory;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;
use crate::spec::request::{ContainerRequest, MountSource};
use crate::store::{ImageRecord, Store};

/// The directory below a container's directory on which its image volumes are mounted.
const IMAGES: &str = "images";

/// The sources of the requested mounts, in the same order. A host path that does not exist is created as a directory, as
/// containerd and CRI-O do; images are mounted.
///
/// # Errors
/// A path cannot be created, or an image or the path in it does not exist.
pub(super) fn sources(
    store: &Store,
    id: &str,
    request: &ContainerRequest,
    directory: &Directory,
) -> Result<Vec<PathBuf>> {
    let mut sources = Vec::new();
    for (number, mount) in request.mounts.iter().enumerate() {
        sources.push(match &mount.source {
            MountSource::Host(path) => on_host(path)?,
            MountSource::Tmpfs => PathBuf::from("tmpfs"),
            MountSource::Image { image, sub_path } => {
                let target = directory.join(IMAGES).join(number.to_string());
                hold_image(store, image, id, number)
                    .and_then(|image| mount_image(store, &image, sub_path, &target))
                    .map_err(|e| e.doing(format!("mount image {image} at {}", mount.destination.display())))?
            }
        });
    }
    Ok(sources)
}

/// Finds an image, and keeps it from being removed while container `id` exists.
fn hold_image(store: &Store, image: &str, id: &str, number: usize) -> Result<ImageRecord> {
    let image = store.find(image)?;
    store.hold_volume(&image, id, number)?;
    Ok(image)
}

/// Mounts an image read-only on `target`; the path of `sub_path` in it.
fn mount_image(store: &Store, image: &ImageRecord, sub_path: &Path, target: &Path) -> Result<PathBuf> {
    private::make_dirs(target, private::DIR).doing(|| format!("make {}", target.display()))?;
    let scratch = target.parent().unwrap_or(target);
    let mounted = crate::image::rootfs::mount_read_only(&store.lower_dirs(image), scratch)?;
    let whole = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    move_mount(mounted.as_fd(), "", CWD, target, whole).doing(|| format!("mount on {}", target.display()))?;
    if sub_path.as_os_str().is_empty() {
        return Ok(target.to_owned());
    }
    beneath(target, sub_path)
}

/// A host path with its symbolic links resolved, as kubelet expects.
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

/// Resolves a path in an image; symbolic links cannot lead out of the image.
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

/// Unmounts a container's image volumes; none is no error.
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
