//! The image store on disk.
//!
//! ```text
//! <root>/                     0700, always: layers carry setuid files (CVE-2021-41091, CVE-2021-41103)
//!   VERSION                   "1\n"
//!   lock                      flock(2): who may write the journal; its bytes: claims on content that comes in
//!   journal                   append-only, CRC-framed: what there is
//!   blobs/sha256/<hex>        manifests and configurations
//!   partial/<hex>             downloads that can go on
//!   layers/<n>/fs/            an unpacked layer in overlayfs form
//!   layers/<n>/files.idx      what is in it, path by path, and what it takes to make its tar again
//!   containers/<id>/          a container's writable layer, and its hold: image -> sha256:<manifest>
//!   tmp/<txn>/                everything uncommitted: layer-<k>/, <hex> of blobs, park-<k>, keep-<n>
//!   trash/                    what waits to be deleted
//! ```
//!
//! Readers take no lock: the journal only grows, or is replaced whole. A transaction is alive as long as its process
//! holds the flock of its directory in `tmp/`. An image is committed by one record of the journal, written after all
//! its bytes are durable; before that record it does not exist, and the next [`Store::open`] sweeps what is left.

mod boot;
pub mod conformance;
mod contents;
mod find;
mod gc;
mod hold;
pub(crate) mod index;
mod journal;
mod layers;
mod lock;
mod partial;
mod prepare;
mod rebuild;
mod record;
pub mod reference;
mod remove;
mod repair;
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
use journal::{Journal, News};
use layers::OverlayLayers;
use lock::{How, Locked};
use trash::{Trash, names as entry_names};

pub use gc::Cleared;
pub use hold::{Hold, remove_container, remove_tree};
pub use layers::{LayerStore, Staged};
pub use partial::Partial;
pub use record::{ImageRecord, LayerId, LayerRecord, Platform, chain_id};
pub use remove::Removed;
pub use transaction::{Batch, Label, NewImage, NewLayer, Pick, Transaction};
pub use usage::{Amount, ImageUsage, Usage};
pub use verify::{Finding, Verdict};

/// The largest manifest, index or configuration that is read, in bytes (CVE-2023-25153).
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// The journal is rewritten when it is both beyond this and four times what it has to say.
const COMPACT_ABOVE: u64 = 256 << 10;

/// A moment in the life of a transaction; see [`Store::on_step`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// Its directory is there.
    Begun,
    /// A layer root was made.
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
    /// `image rm` has written its record, and nothing is deleted yet.
    Removed,
    /// `image gc` has moved dead transactions to the trash.
    Swept,
    /// What is to go is in the trash, and nothing is deleted yet.
    Trashed,
    /// `image verify` has marked what is damaged.
    Marked,
    /// `image repair` has written the journal anew.
    Rewritten,
}

type Hook = Box<dyn Fn(Step) + Send + Sync>;

/// An open image store. It may be open in many processes and used by many threads.
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
    /// Opens the store at `root`, makes it if there is none, and sweeps what dead transactions left. What is swept is
    /// deleted by [`Store::gc`] or whoever writes next. The first open after a reboot looks at what came in before it.
    ///
    /// # Errors
    /// `Unsupported` when a newer program wrote it; `Denied` when it is somebody else's; else what the system says.
    pub fn open(root: &Path) -> Result<Self> {
        let store = Self::open_as_it_is(root)?;
        sweep::sweep(&store)?;
        Ok(store)
    }

    /// As [`Store::open`], but sweeps nothing and looks at nothing.
    ///
    /// # Errors
    /// As for [`Store::open`].
    pub fn open_as_it_is(root: &Path) -> Result<Self> {
        prepare::prepare(root).map_err(|e| e.doing(format!("open the store at {}", root.display())))?;
        let trash = Trash::new(root.join("trash"));
        let view = View { journal: Journal::new(root.join("journal")), contents: Contents::default() };
        let store = Self {
            layers: OverlayLayers::new(root.join("layers"), trash.clone()),
            trash,
            root: root.to_owned(),
            view: Mutex::new(view),
            hook: None,
        };
        store.refresh()?;
        Ok(store)
    }

    /// Calls `hook` at every step of every transaction, in the thread that takes it. Tests kill the process there.
    #[must_use]
    pub fn on_step(mut self, hook: impl Fn(Step) + Send + Sync + 'static) -> Self {
        self.hook = Some(Box::new(hook));
        self
    }

    /// The directory the store lies in.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All images, in the order of their first name; those without one come last.
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

    /// The image with this manifest, if it is here.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn image(&self, manifest: &Digest) -> Result<Option<ImageRecord>> {
        Ok(self.refresh()?.images.get(manifest).cloned())
    }

    /// The image somebody means by `name`: a reference (normalised), an id or manifest digest, or the first digits of
    /// one.
    ///
    /// # Errors
    /// `NotFound`, naming what is near; `Invalid` when several images fit.
    pub fn find(&self, name: &str) -> Result<ImageRecord> {
        find::find(&self.refresh()?.images, name)
    }

    /// As [`Store::find`], and under which of its names the image was meant: none for an id or a digest.
    ///
    /// # Errors
    /// As for [`Store::find`].
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

    /// The layer with `diff_id` that can stand where the chain, itself included, is `chain`.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn layer_for(&self, diff_id: &Digest, chain: &Digest) -> Result<Option<LayerRecord>> {
        Ok(self.refresh()?.layer_for(diff_id, chain).cloned())
    }

    /// The layer that is known to be in the compressed blob `blob`.
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
    /// `Corrupt` when the bytes are not the ones of its digest.
    pub fn config(&self, image: &ImageRecord) -> Result<oci_spec::image::ImageConfiguration> {
        let bytes = self.blob(&image.id)?;
        serde_json::from_slice(&bytes).doing(|| format!("read the configuration of image {}", image.id))
    }

    /// A manifest or configuration of an image in the store, verified.
    ///
    /// # Errors
    /// `Corrupt` when the bytes are not the ones of its digest; `NotFound` when it is not here.
    pub fn blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let mut bytes = Vec::new();
        std::fs::File::open(&path)
            .and_then(|file| file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes))
            .doing(|| format!("read {}", path.display()))?;
        if Digest::of(&bytes) != *digest {
            let doing = format!("{} is damaged: its bytes are not those of its name", path.display());
            return Err(Error::new(Kind::Corrupt, doing).hint("remove the image and import it again"));
        }
        Ok(bytes)
    }

    /// The lower directories for overlayfs(5), topmost first; layers that another one hides whole are left out.
    pub fn lower_dirs(&self, image: &ImageRecord) -> Vec<PathBuf> {
        image.layers.iter().skip(image.hidden).rev().map(|layer| self.layers.lower(*layer)).collect()
    }

    /// Where a layer of the store can be mounted from.
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

    /// The place for a container's writable layer.
    pub fn container_dir(&self, id: &ContainerId) -> PathBuf {
        self.path("containers").join(id)
    }

    /// Removes what `names` mean: a reference takes that name, and the image with its last name; an id or digest
    /// takes the image with all its names. All or nothing.
    ///
    /// # Errors
    /// `Busy` when a container uses an image that would go; `NotFound` as for [`Store::find`].
    pub fn remove(&self, names: &[String]) -> Result<Vec<Removed>> {
        remove::remove(self, names)
    }

    /// Removes the images that have no name, or with `all` every one that no container uses.
    ///
    /// # Errors
    /// As for [`Store::remove`].
    pub fn prune(&self, all: bool) -> Result<Vec<Removed>> {
        gc::prune(self, all)
    }

    /// Clears away what dead processes and removed images left, and deletes what is in the trash, at idle I/O priority.
    ///
    /// # Errors
    /// `Corrupt` when the journal has lost a record: nothing is swept on its word.
    pub fn gc(&self) -> Result<Cleared> {
        gc::gc(self)
    }

    /// Whether `bytes` more fit, with a reserve left to the rest of the machine: a 64th of the file system, at most
    /// 64 MiB. The trash is emptied if that helps.
    ///
    /// # Errors
    /// `System`, saying how much there is and is needed.
    pub fn ensure_room(&self, bytes: u64) -> Result<()> {
        gc::ensure_room(self, bytes)
    }

    /// How much room what takes.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        usage::usage(self)
    }

    /// The bytes of all layers' files, unpacked, and how many of these there are: by the journal, without looking.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn size_of_layers(&self) -> Result<(u64, u64)> {
        let view = self.refresh()?;
        let layers = view.layers.values();
        Ok(layers.fold((0, 0), |(bytes, files), layer| (bytes + layer.size_bytes, files + layer.entries)))
    }

    /// Compares images with what was unpacked: documents, every path of every layer with its content and attributes,
    /// and the journal. `each` hears of every difference; damaged layers are quarantined until they come in again.
    ///
    /// # Errors
    /// When something cannot be read for another reason than damage.
    pub fn verify(&self, images: &[ImageRecord], each: &mut dyn FnMut(&Finding)) -> Result<Verdict> {
        verify::verify(self, images, each)
    }

    /// Whether nothing is known to be wrong with an image, and its documents are whole.
    ///
    /// # Errors
    /// As for [`Store::layers`].
    pub fn is_sound(&self, image: &ImageRecord) -> Result<bool> {
        let layers = self.layers(image)?;
        Ok(layers.iter().all(|layer| !layer.damaged)
            && [image.manifest, image.id].iter().all(|digest| self.blob(digest).is_ok()))
    }

    /// Writes the journal anew when any of it is damaged; says whether it was.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn repair_journal(&self) -> Result<bool> {
        repair::journal(self)
    }

    /// Writes the tar that a layer was unpacked from, equal to the last bit; returns its length.
    ///
    /// # Errors
    /// `Corrupt` when the layer is damaged; `Unsupported` when a member of it was replaced by a later one, whose data
    /// is all that is left.
    pub fn layer_tar(&self, layer: &LayerRecord, out: &mut dyn std::io::Write) -> Result<()> {
        rebuild::layer_tar(self, layer, out)
    }

    /// The length of that tar, in bytes.
    ///
    /// # Errors
    /// As for [`Store::layer_tar`].
    pub fn layer_tar_bytes(&self, layer: &LayerRecord) -> Result<u64> {
        rebuild::layer_tar_bytes(self, layer)
    }

    /// Gives the image with this manifest more names, which other images lose; `None` when it is not here.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn tag(&self, manifest: &Digest, names: &[String]) -> Result<Option<ImageRecord>> {
        self.label(manifest, &Label { names, ..Label::default() })
    }

    /// Makes the image with this manifest known as `label` says, too; `None` when it is not here.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn label(&self, manifest: &Digest, label: &Label<'_>) -> Result<Option<ImageRecord>> {
        transaction::label(self, manifest, label)
    }

    /// Begins to bring something in.
    ///
    /// # Errors
    /// When its directory cannot be made.
    pub fn begin(&self) -> Result<Transaction<'_>> {
        Transaction::begin(self)
    }

    /// Waits until nobody else brings in `content`, and keeps others from it until the answer is dropped.
    ///
    /// # Errors
    /// When the lock file cannot be opened.
    pub fn claim(&self, content: &Digest) -> Result<Claim> {
        lock::claim(&self.path("lock"), content).map(|locked| Claim { _locked: locked })
    }

    /// Claims several contents. Everybody claims in one order, so that nobody waits in a ring; whoever claims so must
    /// hold no other claim.
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

    /// The contents as of now.
    fn refresh(&self) -> Result<Now<'_>> {
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        let scan = match view.journal.refresh()? {
            News::Anew(scan) => {
                view.contents = Contents::default();
                scan
            }
            News::More(scan) => scan,
        };
        view.contents.damaged |= scan.lost;
        for payload in &scan.payloads {
            view.contents.replay(payload);
        }
        Ok(Now(view))
    }

    /// The right to write the journal, and the contents as they are then.
    fn write(&self) -> Result<(Locked, Now<'_>)> {
        let locked = lock::lock(&self.path("lock"), How::Alone)?;
        Ok((locked, self.refresh()?))
    }
}

/// Somebody is bringing this content in; ends when dropped.
#[derive(Debug)]
pub struct Claim {
    _locked: Locked,
}

/// The contents, for as long as this process' other threads can wait.
struct Now<'a>(MutexGuard<'a, View>);

impl std::ops::Deref for Now<'_> {
    type Target = Contents;

    fn deref(&self) -> &Contents {
        &self.0.contents
    }
}

impl Now<'_> {
    /// Commits one event. The caller has got this from [`Store::write`].
    fn commit(&mut self, event: record::Event) -> Result<()> {
        let view = &mut *self.0;
        let payload = serde_json::to_vec(&event).doing(|| "write a record of the journal")?;
        view.journal.append(&payload)?;
        view.contents.apply(event);
        // Brings `read_to` behind the record just written; its contents are applied already.
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

    /// Writes the journal anew from what could be read of it; what is lost stays lost. As for [`Now::commit`].
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
