//! Storage of layers, behind a trait: directories for overlayfs now, one file per layer for other back ends later.

use std::fmt::Debug;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::error::{Doing, Result};
use crate::linux::private;

use super::index;
use super::journal::sync_dir;
use super::record::LayerId;
use super::trash::Trash;

/// A back end that stores layers. The life of a layer in it:
///
/// 1. [`stage`](LayerStore::stage): an empty root below a transaction's directory, filled by the caller, with the
///    record of its paths ([`Staged::index`]). It may vanish at any time before step 3 without a trace:
///    transactions delete their directory when they fail.
/// 2. The caller verifies the digests and makes the file system of the store durable (syncfs(2)).
/// 3. [`place`](LayerStore::place) moves it to its number, in one atomic step; then [`sync`](LayerStore::sync) is called
///    once for all placed layers. The layer exists only once the journal names it.
/// 4. [`lower`](LayerStore::lower) returns a lower directory for overlayfs(5), which stays unchanged for as long as an
///    image has the layer or a container holds it.
/// 5. [`discard`](LayerStore::discard) hides it at once; its space is freed when the trash is emptied.
///
/// [`present`](LayerStore::present) lists the layers on disk, so that those the journal does not name can be discarded
/// after a crash.
pub trait LayerStore: Debug + Send + Sync {
    /// Creates an empty layer root in `inside`, a transaction's own directory.
    ///
    /// # Errors
    /// When it cannot be created.
    fn stage(&self, inside: &Path, number: u32) -> Result<Staged>;

    /// Moves a filled root to its number. After that the transaction no longer contains it.
    ///
    /// # Errors
    /// When the number is in use or the rename fails.
    fn place(&self, staged: &Staged, id: LayerId) -> Result<()>;

    /// Makes earlier calls of `place` and `discard` durable.
    ///
    /// # Errors
    /// When fsync(2) fails.
    fn sync(&self) -> Result<()>;

    /// The path to use as a lower directory.
    fn lower(&self, id: LayerId) -> PathBuf;

    /// The path of the layer's record, `files.idx`.
    fn index(&self, id: LayerId) -> PathBuf;

    /// Every stored layer, known to the journal or not.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn present(&self) -> Result<Vec<LayerId>>;

    /// Removes a layer. A missing one is no error.
    ///
    /// # Errors
    /// When it cannot be moved.
    fn discard(&self, id: LayerId) -> Result<()>;
}

/// A layer root that is being filled.
#[derive(Debug)]
pub struct Staged {
    /// The directory that becomes `layers/<n>`.
    holder: PathBuf,
    /// The layer's root directory.
    root: OwnedFd,
}

impl Staged {
    /// The root directory to unpack into.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Creates the file for the record of the unpacked tree; the file of an earlier attempt is truncated.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn index(&self) -> Result<File> {
        let path = self.index_path();
        private::create(&path, private::FILE).doing(|| format!("make {}", path.display()))
    }

    /// The path of that file.
    pub fn index_path(&self) -> PathBuf {
        self.holder.join(index::NAME)
    }

    /// The path of the root directory.
    pub fn path(&self) -> PathBuf {
        self.holder.join("fs")
    }
}

/// Unpacked trees in overlayfs form: `layers/<n>/fs`, each beside its `files.idx`.
#[derive(Debug, Clone)]
pub(crate) struct OverlayLayers {
    dir: PathBuf,
    trash: Trash,
}

impl OverlayLayers {
    pub(crate) fn new(dir: PathBuf, trash: Trash) -> Self {
        Self { dir, trash }
    }

    fn holder(&self, id: LayerId) -> PathBuf {
        self.dir.join(id.to_string())
    }
}

impl LayerStore for OverlayLayers {
    fn stage(&self, inside: &Path, number: u32) -> Result<Staged> {
        let holder = inside.join(format!("layer-{number}"));
        let root = holder.join("fs");
        let doing = || format!("make {}", root.display());
        private::make_dir(&holder, private::DIR).doing(doing)?;
        // The image's own root entry sets another mode, if it has one.
        private::make_dir(&root, private::SHARED_DIR).doing(doing)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(&root, flags, Mode::empty()).doing(doing)?;
        rustix::fs::fchmod(&root, Mode::from_raw_mode(0o755)).doing(doing)?;
        Ok(Staged { holder, root })
    }

    fn place(&self, staged: &Staged, id: LayerId) -> Result<()> {
        let place = self.holder(id);
        std::fs::rename(&staged.holder, &place).doing(|| format!("move a layer to {}", place.display()))
    }

    fn sync(&self) -> Result<()> {
        sync_dir(&self.dir)
    }

    fn lower(&self, id: LayerId) -> PathBuf {
        self.holder(id).join("fs")
    }

    fn index(&self, id: LayerId) -> PathBuf {
        self.holder(id).join(index::NAME)
    }

    fn present(&self) -> Result<Vec<LayerId>> {
        let doing = || format!("list {}", self.dir.display());
        let mut present = Vec::new();
        for entry in std::fs::read_dir(&self.dir).doing(doing)? {
            let name = entry.doing(doing)?.file_name();
            present.extend(name.to_str().and_then(|name| name.parse().ok()).map(LayerId));
        }
        Ok(present)
    }

    fn discard(&self, id: LayerId) -> Result<()> {
        self.trash.take(&self.holder(id))
    }
}
