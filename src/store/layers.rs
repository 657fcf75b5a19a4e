//! Where layers live, behind a trait: directories for overlayfs now, one file per layer for other back ends later.

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

/// A back end that keeps layers. The life of a layer in it:
///
/// 1. [`stage`](LayerStore::stage): an empty root below a transaction's directory, filled by the caller, with the
///    record of what is in it ([`Staged::index`]). It may vanish at any time before step 3 without a trace:
///    transactions delete their directory when they fail.
/// 2. The caller verifies the digests and makes the file system of the store durable (syncfs(2)).
/// 3. [`place`](LayerStore::place): under its number, in one atomic step; then
///    [`sync`](LayerStore::sync) once for all layers placed. It is still nobody's: only the journal makes it real.
/// 4. [`lower`](LayerStore::lower): what overlayfs(5) takes as a lower directory, read-only, for as long as an image
///    has the layer or a container holds it.
/// 5. [`discard`](LayerStore::discard): out of sight at once, the bytes go with the trash.
///
/// [`present`](LayerStore::present) lists what steps 3 to 5 left, so that whatever the journal does not know can be
/// discarded after a crash.
pub trait LayerStore: Debug + Send + Sync {
    /// Makes an empty layer root in `inside`, a transaction's own directory.
    ///
    /// # Errors
    /// When it cannot be made.
    fn stage(&self, inside: &Path, number: u32) -> Result<Staged>;

    /// Gives a filled root its number. The directory that held it is gone from the transaction then.
    ///
    /// # Errors
    /// When the layer is taken or the rename fails.
    fn place(&self, staged: &Staged, id: LayerId) -> Result<()>;

    /// Makes what was placed and discarded durable.
    ///
    /// # Errors
    /// When fsync(2) fails.
    fn sync(&self) -> Result<()>;

    /// The path to mount.
    fn lower(&self, id: LayerId) -> PathBuf;

    /// The record of what was unpacked, `files.idx`.
    fn index(&self, id: LayerId) -> PathBuf;

    /// Every layer there is, known to the journal or not.
    ///
    /// # Errors
    /// When the directory cannot be read.
    fn present(&self) -> Result<Vec<LayerId>>;

    /// Takes a layer away. A missing one is fine.
    ///
    /// # Errors
    /// When it cannot be moved.
    fn discard(&self, id: LayerId) -> Result<()>;
}

/// A layer root that is being filled.
#[derive(Debug)]
pub struct Staged {
    /// What becomes `layers/<n>`.
    holder: PathBuf,
    /// The layer's root directory.
    root: OwnedFd,
}

impl Staged {
    /// The root directory to unpack into.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The file for the record of what is unpacked, made new: of an attempt before, nothing stays.
    ///
    /// # Errors
    /// When it cannot be made.
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
