//! Holds: a container registers its use of an image, so that the image's layers are not removed.
//!
//! A hold is the symbolic link `containers/<id>/image`, or `image-<n>` for volume n of the container, whose target is the
//! manifest's digest: created atomically, never torn, and removed with the container's directory, whichever process removes
//! that and whatever crashed before.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::linux::private;

use super::Store;
use super::lock::{How, lock};
use super::record::{ImageRecord, LayerRecord};

const LINK: &str = "image";

/// The file that marks a container's directory as that of a pod's container; it holds the path of the daemon's run directory.
pub const POD_MARK: &str = "pod";

/// Keeps an image from being removed until it is released or the container's directory is removed.
///
/// Dropping it does not release it: the container outlives the process that started it.
#[derive(Debug)]
pub struct Hold {
    link: PathBuf,
}

impl Hold {
    /// The container's directory in the store, which also holds its writable layer.
    pub fn directory(&self) -> &Path {
        self.link.parent().unwrap_or(&self.link)
    }

    /// Releases the image.
    ///
    /// # Errors
    /// When the link cannot be removed; a missing link is no error.
    pub fn release(self) -> Result<()> {
        match std::fs::remove_file(&self.link) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).doing(|| format!("remove {}", self.link.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Removes a container's directory with its writable layer; a missing one is no error. The hold on the image is removed
/// last: until then its layers stay.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove_container(directory: &Path) -> Result<()> {
    for name in ["upper", "work"] {
        remove_tree(&directory.join(name))?;
    }
    remove_tree(directory)
}

/// Removes a directory with all below it; a missing one is no error.
///
/// # Errors
/// When something in it cannot be removed.
pub fn remove_tree(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(e).doing(|| format!("remove {}", path.display())),
        _ => Ok(()),
    }
}

/// Registers container `owner` as a user of `image`.
pub(super) fn hold(store: &Store, image: &ImageRecord, owner: &str) -> Result<Hold> {
    let owner = ContainerId::parse(owner)?;
    let directory = store.container_dir(&owner);
    let link = directory.join(LINK);
    // `image rm` takes this lock alone while it looks for holds and removes images.
    let _kept = lock(&store.path("containers"), How::Shared)?;
    refuse_unusable(store, image)?;
    let made = private::make_dir(&directory, private::DIR);
    let is_new = made.is_ok();
    match made {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => std::os::unix::fs::symlink(image.manifest.to_string(), &link).inspect_err(|_| {
            if is_new {
                let _ = std::fs::remove_dir(&directory);
            }
        }),
    }
    .map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => {
            Error::new(Kind::Exists, format!("container {owner} holds an image already"))
        }
        _ => Error::new(Kind::System, format!("make {}", link.display())).because(error),
    })?;
    Ok(Hold { link })
}

/// Registers container `owner` as a user of `image` for its volume `number`.
pub(super) fn hold_volume(store: &Store, image: &ImageRecord, owner: &str, number: usize) -> Result<()> {
    let link = store.container_dir(&ContainerId::parse(owner)?).join(format!("{LINK}-{number}"));
    let _kept = lock(&store.path("containers"), How::Shared)?;
    refuse_unusable(store, image)?;
    std::os::unix::fs::symlink(image.manifest.to_string(), &link).doing(|| format!("make {}", link.display()))
}

/// Refuses an image that was removed, or that has a quarantined or missing layer.
fn refuse_unusable(store: &Store, image: &ImageRecord) -> Result<()> {
    let Some(image) = store.image(&image.manifest)? else {
        let gone = format!("image {} was removed from the store", image.manifest);
        return Err(Error::new(Kind::NotFound, gone));
    };
    let is_unusable = |layer: &LayerRecord| layer.damaged || !store.lower_dir(layer.id).is_dir();
    let Some(layer) = store.layers(&image)?.into_iter().find(is_unusable) else { return Ok(()) };
    let name = image.names.first().cloned().unwrap_or_else(|| image.id.to_string());
    let doing = match layer.damaged {
        true => format!("image {name} is damaged, in layer {}", layer.diff_id),
        false => format!("image {name} is damaged: the directory of layer {} is missing", layer.diff_id),
    };
    Err(Error::new(Kind::Corrupt, doing)
        .hint(format!("coracle image repair {name}, or import or pull it again")))
}

/// Every container that holds an image, with the image's manifest digest, each pair once.
pub(super) fn holders(store: &Store) -> Result<BTreeSet<(String, Digest)>> {
    let dir = store.path("containers");
    let doing = || format!("list {}", dir.display());
    let mut holders = BTreeSet::new();
    for entry in std::fs::read_dir(&dir).doing(doing)? {
        let entry = entry.doing(doing)?;
        let container = entry.file_name().to_string_lossy().into_owned();
        let held = held_in(&entry.path()).doing(doing)?;
        holders.extend(held.into_iter().map(|digest| (container.clone(), digest)));
    }
    Ok(holders)
}

/// The manifests of the images that the container with this directory holds.
fn held_in(container: &Path) -> std::io::Result<Vec<Digest>> {
    let entries = match std::fs::read_dir(container) {
        // It was removed meanwhile, or is a stray file.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        other => other?,
    };
    let mut held = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let is_hold =
            |name: &str| name == LINK || name.strip_prefix(LINK).is_some_and(|n| n.starts_with('-'));
        if !name.to_str().is_some_and(is_hold) {
            continue;
        }
        match std::fs::read_link(entry.path()) {
            Ok(target) => held.extend(target.to_str().map(Digest::parse).and_then(Result::ok)),
            // It was removed meanwhile (NotFound), or is no link (InvalidInput).
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::InvalidInput) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(held)
}
