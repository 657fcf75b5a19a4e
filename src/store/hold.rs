//! Holds: a container registers its use of an image, so that the image's layers are not removed.
//!
//! A hold is the symbolic link `containers/<id>/image` whose target is the manifest's digest: created atomically, never
//! torn, and removed with the container's directory, whichever process removes that and whatever crashed before.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::linux::private;

use super::Store;
use super::lock::{How, lock};
use super::record::ImageRecord;

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
    let found = store.refresh()?.images.get(&image.manifest).cloned();
    let Some(now) = found else {
        let gone = format!("image {} was removed from the store", image.manifest);
        return Err(Error::new(Kind::NotFound, gone));
    };
    refuse_damaged(store, &now)?;
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

/// Refuses an image with a quarantined layer.
fn refuse_damaged(store: &Store, image: &ImageRecord) -> Result<()> {
    let Some(layer) = store.layers(image)?.into_iter().find(|layer| layer.damaged) else { return Ok(()) };
    let name = image.names.first().cloned().unwrap_or_else(|| image.id.to_string());
    let doing = format!("image {name} is damaged, in layer {}", layer.diff_id);
    Err(Error::new(Kind::Corrupt, doing)
        .hint(format!("coracle image repair {name}, or import or pull it again")))
}

/// Every container that holds an image, with the image's manifest digest.
pub(super) fn holders(store: &Store) -> Result<Vec<(String, Digest)>> {
    let dir = store.path("containers");
    let doing = || format!("list {}", dir.display());
    let mut holders = Vec::new();
    for entry in std::fs::read_dir(&dir).doing(doing)? {
        let entry = entry.doing(doing)?;
        match std::fs::read_link(entry.path().join(LINK)) {
            Ok(target) => {
                let digest = target.to_str().map(Digest::parse).and_then(Result::ok);
                holders
                    .extend(digest.map(|digest| (entry.file_name().to_string_lossy().into_owned(), digest)));
            }
            // No image of this store (NotFound), a stray file (NotADirectory), or no link (InvalidInput).
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidInput
                ) => {}
            Err(error) => return Err(error).doing(doing),
        }
    }
    Ok(holders)
}
