//! The image store on disk.
//!
//! ```text
//! <root>/                     0700, always: layers carry setuid files (CVE-2021-41091, CVE-2021-41103)
//!   VERSION                   "1\n"
//!   lock                      flock(2): the right to write the journal; its bytes: claims on content being imported
//!   journal                   append-only, CRC-framed: the contents of the store
//!   blobs/sha256/<hex>        manifests and configurations
//!   partial/<hex>             downloads that can be resumed
//!   layers/<n>/fs/            an unpacked layer in overlayfs form
//!   layers/<n>/files.idx      its record: every path, and the data to rebuild its tar
//!   containers/<id>/          a container's writable layer, and its holds: image, image-<n> -> sha256:<manifest>
//!   tmp/<txn>/                everything uncommitted: layer-<k>/, <hex> of blobs, park-<k>, keep-<n>,
//!                             and place-<n>, which announces layer <n> before the journal has its record
//!   trash/                    trees and files to delete
//! ```
//!
//! Readers take no lock: the journal only grows, or is replaced whole. A transaction is alive as long as its process
//! holds the flock of its directory in `tmp/`. An image is committed by one record of the journal, written after all
//! its bytes are durable; before that record it does not exist, and the next [`Store::open`] sweeps the remains of dead
//! transactions.

mod boot;
mod config;
pub mod conformance;
mod contents;
mod find;
mod gc;
mod hold;
pub(crate) mod index;
mod journal;
mod layers;
mod lock;
mod lost;
mod partial;
mod prepare;
mod read_only;
mod rebuild;
mod record;
pub mod reference;
mod remove;
mod repair;
mod salvage;
mod sweep;
mod transaction;
mod trash;
mod usage;
mod verify;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;

use contents::Contents;
use journal::{Journal, Update};
use layers::OverlayLayers;
use lock::{How, Locked};
use trash::{Trash, names as entry_names};

pub use config::{image_config, remove_nulls};
pub use gc::Cleared;
pub use hold::{Hold, POD_MARK, remove_container, remove_tree};
pub use layers::{LayerStore, Staged};
pub use partial::Partial;
pub use prepare::PARTS;
pub use record::{ImageRecord, LayerId, LayerRecord, Platform, chain_id};
pub use remove::Removed;
pub use repair::Rewritten;
pub use transaction::{Batch, Label, NewImage, NewLayer, Pick, Transaction};
pub use usage::{Amount, ImageUsage, Usage};
pub use verify::{Finding, Summary};

/// The largest manifest, index or configuration that is read, in bytes (CVE-2023-25153).
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// The journal is compacted when it is both larger than this and four times as large as its snapshot.
const COMPACT_ABOVE: u64 = 256 << 10;

/// A point in the life of a transaction; see [`Store::on_step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The transaction has its directory.
    Begun,
    /// A layer root was created.
    LayerStaged,
    /// A manifest or configuration was written.
    BlobStaged,
    /// All of it is durable, in `tmp/`.
    Synced,
    /// Blobs and layers have their final names.
    Placed,
    /// These names are durable.
    NamesSynced,
    /// The journal has the record: the image exists.
    Journalled,
    /// `image rm` has written its record and deleted nothing yet.
    Removed,
    /// `image gc` has moved dead transactions to the trash.
    Swept,
    /// Everything to delete is in the trash, and nothing is deleted yet.
    Trashed,
    /// `image verify` has marked the damaged layers.
    Marked,
    /// `image repair` has rewritten the journal.
    Rewritten,
}

type Hook = Box<dyn Fn(Step) + Send + Sync>;

/// An open image store. Many processes may have it open, and many threads may use it.
pub struct Store {
    root: PathBuf,
    layers: OverlayLayers,
    trash: Trash,
    view: Mutex<View>,
    hook: Option<Hook>,
}

#[derive(Debug)]
struct View {
    journal: Journal,
    contents: Contents,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store at `root`, creates it if there is none, and sweeps the remains of dead transactions. Swept data
    /// is deleted by [`Store::gc`] or the next writer. The first open after a reboot checks the layers imported before
    /// it.
    ///
    /// # Errors
    /// `Unsupported` when a newer program wrote it; `Denied` when it belongs to another user; else the system's error.
    pub fn open(root: &Path) -> Result<Self> {
        let store = Self::open_as_it_is(root)?;
        sweep::sweep(&store)?;
        Ok(store)
    }

    /// Like [`Store::open`], but neither sweeps nor checks.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open_as_it_is(root: &Path) -> Result<Self> {
        let store = Self::at(root)?;
        store.refresh()?;
        lost::record(&store)?;
        Ok(store)
    }

    /// Like [`Store::open`], but rewrites a damaged or lost journal first, from what is in the store. No layer is
    /// deleted for having no record. Returns what was rewritten, if anything.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub fn open_to_repair(root: &Path) -> Result<(Self, Option<Rewritten>)> {
        let store = Self::at(root)?;
        let rewritten = repair::journal(&store)?;
        store.refresh()?;
        sweep::sweep(&store)?;
        Ok((store, rewritten))
    }

    /// The store at `root`, whose journal was not read yet.
    fn at(root: &Path) -> Result<Self> {
        prepare::prepare(root).map_err(|e| e.doing(format!("open the store at {}", root.display())))?;
        Ok(Self::unread(root))
    }

    /// Calls `hook` at every step of every transaction, in the thread that takes it. Tests kill the process there.
    #[must_use]
    pub fn on_step(mut self, hook: impl Fn(Step) + Send + Sync + 'static) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    /// The directory of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All images, sorted by their first name; unnamed ones come last.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn images(&self) -> Result<Vec<ImageRecord>> {
        let mut images: Vec<ImageRecord> = self.refresh()?.images.values().cloned().collect();
        images.sort_by_cached_key(|image| {
            (image.names.is_empty(), image.names.first().cloned(), image.manifest)
        });
        Ok(images)
    }

    /// The image with this manifest, if the store has it.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn image(&self, manifest: &Digest) -> Result<Option<ImageRecord>> {
        Ok(self.refresh()?.images.get(manifest).cloned())
    }

    /// The image that a user means by `name`: a reference (normalised), an id or manifest digest, or the first digits
    /// of one.
    ///
    /// # Errors
    /// `NotFound`, suggesting similar names; `Invalid` when several images fit.
    pub fn find(&self, name: &str) -> Result<ImageRecord> {
        find::find(&self.refresh()?.images, name)
    }

    /// Like [`Store::find`], but also returns the image's name that matched: none for an id or a digest.
    ///
    /// # Errors
    /// Those of [`Store::find`].
    pub fn find_named(&self, name: &str) -> Result<(ImageRecord, Option<String>)> {
        let image = self.find(name)?;
        let called = find::name_of(&image, name);
        Ok((image, called))
    }

    /// The layers of an image, base first.
    ///
    /// # Errors
    /// When the journal cannot be read; `NotFound` when the image was removed meanwhile.
    pub fn layers(&self, image: &ImageRecord) -> Result<Vec<LayerRecord>> {
        let view = self.refresh()?;
        let find = |id| {
            view.layers.get(id).cloned().ok_or_else(|| {
                Error::new(Kind::NotFound, format!("layer {id} of image {} was removed", image.manifest))
            })
        };
        image.layers.iter().map(find).collect()
    }

    /// The layer with `diff_id` that is usable where the chain, itself included, is `chain`.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn layer_for(&self, diff_id: &Digest, chain: &Digest) -> Result<Option<LayerRecord>> {
        Ok(self.refresh()?.layer_for(diff_id, chain).cloned())
    }

    /// The layer known to be in the compressed blob `blob`.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn layer_of_blob(&self, blob: &Digest) -> Result<Option<LayerRecord>> {
        let is_it = |layer: &&LayerRecord| layer.blobs.contains(blob) && !layer.damaged;
        Ok(self.refresh()?.layers.values().find(is_it).cloned())
    }

    /// The configuration of an image, read and verified.
    ///
    /// # Errors
    /// `Corrupt` when the bytes do not have its digest.
    pub fn config(&self, image: &ImageRecord) -> Result<oci_spec::image::ImageConfiguration> {
        let bytes = self.blob(&image.id)?;
        image_config(&bytes).doing(|| format!("read the configuration of image {}", image.id))
    }

    /// A manifest or configuration of an image in the store, verified.
    ///
    /// # Errors
    /// `Corrupt` when the bytes do not have its digest; `NotFound` when the store does not have it.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes))
            .doing(|| format!("read {}", path.display()))?;
        if Digest::of(&bytes) != *digest {
            let doing =
                format!("{} is damaged: its bytes do not have the digest in its name", path.display());
            return Err(Error::new(Kind::Corrupt, doing).hint("remove the image and import it again"));
        }
        Ok(bytes)
    }

    /// The lower directories for overlayfs(5), topmost first; layers that another one hides completely are left out.
    pub fn lower_dirs(&self, image: &ImageRecord) -> Vec<PathBuf> {
        image.layers.iter().skip(image.hidden).rev().map(|layer| self.layers.lower(*layer)).collect()
    }

    /// The lower directory of one layer, for a mount.
    pub fn lower_dir(&self, layer: LayerId) -> PathBuf {
        self.layers.lower(layer)
    }

    /// Keeps `image` from being removed while container `owner` has its directory in the store.
    ///
    /// # Errors
    /// `NotFound` when the image was removed meanwhile; `Exists` when the container holds one already.
    pub fn hold(&self, image: &ImageRecord, owner: &str) -> Result<Hold> {
        hold::hold(self, image, owner)
    }

    /// Keeps `image`, of which container `owner` mounts volume `number`, from being removed for as long as the container
    /// has its directory in the store. Call it after [`Store::hold`].
    ///
    /// # Errors
    /// `NotFound` when the image was removed meanwhile; `Corrupt` when it is damaged.
    pub fn hold_volume(&self, image: &ImageRecord, owner: &str, number: usize) -> Result<()> {
        hold::hold_volume(self, image, owner, number)
    }

    /// The directory of a container, with its writable layer.
    pub fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.path("containers").join(id)
    }

    /// Moves a container's directory to the trash, which releases its image; a missing one is no error.
    ///
    /// # Errors
    /// The directory cannot be moved.
    pub fn discard_container(&self, id: &ContainerId) -> Result<()> {
        self.trash.take(&self.container_dir(id))
    }

    /// Frees the space of what is in the trash, at idle I/O priority.
    ///
    /// # Errors
    /// Something in it cannot be deleted.
    pub fn empty_trash(&self) -> Result<()> {
        self.trash.empty().map(drop)
    }

    /// Removes the objects that `names` mean: a reference removes that name, and the image with its last name; an id or
    /// digest removes the image with all its names. All or nothing.
    ///
    /// # Errors
    /// `Busy` when a container uses an image that would be removed; `NotFound` as for [`Store::find`].
    pub fn remove(&self, names: &[String]) -> Result<Vec<Removed>> {
        remove::remove(self, names)
    }

    /// Removes the images without a name, or with `all` every one that no container uses.
    ///
    /// # Errors
    /// Those of [`Store::remove`].
    pub fn prune(&self, all: bool) -> Result<Vec<Removed>> {
        gc::prune(self, all)
    }

    /// Sweeps the remains of dead processes and removed images, and empties the trash, at idle I/O priority. Layers that a
    /// repair of the journal left without a record are deleted too.
    ///
    /// # Errors
    /// `Corrupt` when the journal has lost a record: then nothing is swept.
    pub fn gc(&self) -> Result<Cleared> {
        gc::gc(self, true)
    }

    /// Like [`Store::gc`], but keeps the layers that a repair of the journal left without a record.
    ///
    /// # Errors
    /// Those of [`Store::gc`].
    pub fn gc_known(&self) -> Result<Cleared> {
        gc::gc(self, false)
    }

    /// Checks that `bytes` more fit, with a reserve left to the rest of the machine: a 64th of the file system, at most
    /// 64 MiB. The trash is emptied if that helps.
    ///
    /// # Errors
    /// `System`, with the free and the needed space.
    pub fn ensure_room(&self, bytes: u64) -> Result<()> {
        gc::ensure_room(self, bytes)
    }

    /// The disk usage of the store.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        usage::usage(self)
    }

    /// The bytes and the number of all layers' files, unpacked, from the journal alone.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn size_of_layers(&self) -> Result<(u64, u64)> {
        let view = self.refresh()?;
        let layers = view.layers.values();
        Ok(layers.fold((0, 0), |(bytes, files), layer| (bytes + layer.size_bytes, files + layer.entries)))
    }

    /// Compares images with their imported state: documents, every path of every layer with its content and attributes,
    /// and the journal. `each` is called for every difference; damaged layers are quarantined until they are imported
    /// again.
    ///
    /// # Errors
    /// When something cannot be read for another reason than damage.
    pub fn verify(&self, images: &[ImageRecord], each: &mut dyn FnMut(&Finding)) -> Result<Summary> {
        verify::verify(self, images, each)
    }

    /// Returns whether no damage of an image is known, its layers are there, and its documents are intact.
    ///
    /// # Errors
    /// Those of [`Store::layers`].
    pub fn is_sound(&self, image: &ImageRecord) -> Result<bool> {
        let layers = self.layers(image)?;
        Ok(layers.iter().all(|layer| !layer.damaged && self.is_on_disk(layer.id))
            && [image.manifest, image.id].iter().all(|digest| self.blob(digest).is_ok()))
    }

    /// Returns whether the tree and the record of a layer are there; their content is not checked.
    fn is_on_disk(&self, layer: LayerId) -> bool {
        self.layers.lower(layer).is_dir() && self.layers.index(layer).is_file()
    }

    /// Rewrites the journal when any of it is damaged; returns whether it was. See [`Store::open_to_repair`].
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn repair_journal(&self) -> Result<bool> {
        Ok(repair::journal(self)?.is_some())
    }

    /// Writes the tar that a layer was unpacked from, bit for bit; returns its length.
    ///
    /// # Errors
    /// `Corrupt` when the layer is damaged; `Unsupported` when a later member replaced one of it, so that the data of
    /// the earlier one is lost.
    pub fn layer_tar(&self, layer: &LayerRecord, out: &mut dyn std::io::Write) -> Result<()> {
        rebuild::layer_tar(self, layer, out)
    }

    /// The length of that tar, in bytes.
    ///
    /// # Errors
    /// Those of [`Store::layer_tar`].
    pub fn layer_tar_bytes(&self, layer: &LayerRecord) -> Result<u64> {
        rebuild::layer_tar_bytes(self, layer)
    }

    /// Gives the image with this manifest more names, which other images lose; `None` when the store does not have it.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn tag(&self, manifest: &Digest, names: &[String]) -> Result<Option<ImageRecord>> {
        self.label(manifest, &Label { names, ..Label::default() })
    }

    /// Adds the names and digests of `label` to the image with this manifest; `None` when the store does not have it.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn label(&self, manifest: &Digest, label: &Label<'_>) -> Result<Option<ImageRecord>> {
        transaction::label(self, manifest, label)
    }

    /// Begins an import.
    ///
    /// # Errors
    /// When its directory cannot be created.
    pub fn begin(&self) -> Result<Transaction<'_>> {
        Transaction::begin(self)
    }

    /// Waits until no other process or thread imports `content`, and keeps others from it until the claim is dropped.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn claim(&self, content: &Digest) -> Result<Claim> {
        lock::claim(&self.path("lock"), content).map(|locked| Claim { _locked: locked })
    }

    /// Claims several contents. All callers claim in one order, so that there is no deadlock; the caller must hold no
    /// other claim.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn claim_all(&self, contents: &[Digest]) -> Result<Vec<Claim>> {
        let locked = lock::claim_all(&self.path("lock"), contents)?;
        Ok(locked.into_iter().map(|locked| Claim { _locked: locked }).collect())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path("blobs/sha256").join(digest.hex())
    }

    fn step(&self, step: Step) {
        if let Some(hook) = &self.hook {
            hook(step);
        }
    }

    /// The current contents.
    fn refresh(&self) -> Result<Now<'_>> {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let was_replaced = self.read_on(&mut view)?;
        if was_replaced || view.contents.images.is_empty() {
            lost::check(self, &mut view)?;
        }
        Ok(Now(view))
    }

    /// Like [`Store::refresh`], also when the journal is lost.
    fn read(&self) -> Result<Now<'_>> {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        self.read_on(&mut view)?;
        Ok(Now(view))
    }

    /// Applies the records written since the last time; returns whether the journal was replaced or has become shorter.
    fn read_on(&self, view: &mut View) -> Result<bool> {
        let (scan, was_replaced) = match view.journal.refresh()? {
            Update::Replaced(scan) => {
                view.contents = Contents::default();
                (scan, true)
            }
            Update::Appended(scan) => (scan, false),
        };
        view.contents.damaged |= scan.lost;
        for payload in &scan.payloads {
            view.contents.replay(payload);
        }
        Ok(was_replaced)
    }

    /// Locks the store for writing the journal, and returns the contents at that moment.
    fn write(&self) -> Result<(Locked, Now<'_>)> {
        let locked = lock::lock(&self.path("lock"), How::Exclusive)?;
        Ok((locked, self.refresh()?))
    }
}

/// The exclusive right to import one content, until it is dropped.
#[derive(Debug)]
pub struct Claim {
    _locked: Locked,
}

/// The current contents; other threads of this process wait meanwhile.
struct Now<'a>(MutexGuard<'a, View>);

impl std::ops::Deref for Now<'_> {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.0.contents
    }
}

impl Now<'_> {
    /// Commits one event. The caller has this value from [`Store::write`].
    fn commit(&mut self, event: record::Event) -> Result<()> {
        let view = &mut *self.0;
        let payload = serde_json::to_vec(&event).doing(|| "write a record of the journal")?;
        view.journal.append(&payload)?;
        view.contents.apply(event);
        // Moves `read_to` past the record just written, which is applied already.
        view.journal.refresh()?;
        if view.journal.size_bytes() <= COMPACT_ABOVE || view.contents.damaged {
            return Ok(());
        }
        let snapshot = view.contents.snapshot();
        let snapshot = serde_json::to_vec(&snapshot).doing(|| "write a record of the journal")?;
        if view.journal.size_bytes() > 8 * snapshot.len() as u64 {
            view.journal.compact(&snapshot)?;
        }
        Ok(())
    }

    /// Rewrites the journal from its readable records; lost ones stay lost. For callers of [`Store::write`], like
    /// [`Now::commit`].
    fn rewrite(&mut self) -> Result<()> {
        let view = &mut *self.0;
        let snapshot = view.contents.snapshot();
        let snapshot = serde_json::to_vec(&snapshot).doing(|| "write a record of the journal")?;
        view.journal.compact(&snapshot)?;
        view.contents.damaged = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
