//! Imports: data is staged, made durable by one barrier, renamed to its place, and committed by one record.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

use super::journal::sync_dir;
use super::layers::{LayerStore, Staged};
use super::lock::{How, Locked, lock, try_lock};
use super::record::{Event, ImageRecord, LayerId, LayerRecord, Platform};
use super::{Contents, Step, Store, lost};

static NEXT: AtomicU64 = AtomicU64::new(0);

/// An import in progress. Dropped without a commit, or left by a dead process, it leaves nothing.
#[derive(Debug)]
pub struct Transaction<'a> {
    store: &'a Store,
    path: PathBuf,
    /// The lock that marks the transaction as alive.
    _alive: Locked,
    counter: AtomicU32,
    /// The staged manifests and configurations.
    documents: Mutex<BTreeSet<Digest>>,
}

/// A layer that was unpacked and verified.
#[derive(Debug)]
pub struct NewLayer {
    /// The directory it was unpacked to.
    pub staged: Staged,
    /// The computed digest of its uncompressed tar.
    pub diff_id: Digest,
    /// The only chain where it is usable, when it inherited something from the layers below.
    pub chain: Option<Digest>,
    /// It marks the root opaque, which hides all layers below.
    pub hides_all_lower: bool,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// The number of its tar entries.
    pub entries: u64,
}

/// A layer of an image to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// A layer in the store, for which [`Transaction::keep`] returned true.
    Present(LayerId),
    /// A new layer, by its index in [`Batch::layers`].
    New(usize),
}

/// An image whose layers are all in the store or staged, and whose documents are staged.
#[derive(Debug, Clone)]
pub struct NewImage {
    /// The digest of its configuration.
    pub id: Digest,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Normalised references; other images lose them.
    pub names: Vec<String>,
    /// Its names by digest at registries: `repository@digest`.
    pub repo_digests: Vec<String>,
    /// The platform that it runs on.
    pub platform: Platform,
    /// The manifests of the images for other platforms under the same names.
    pub others: Vec<Digest>,
    /// Its layers, base first.
    pub layers: Vec<Pick>,
}

/// The contents of one commit.
#[derive(Debug, Default)]
pub struct Batch {
    /// New layers, in any order.
    pub layers: Vec<NewLayer>,
    /// Images of these and of layers in the store.
    pub images: Vec<NewImage>,
    /// The layer in each compressed blob, as far as known.
    pub blobs: Vec<(Digest, Pick)>,
}

impl<'a> Transaction<'a> {
    pub(super) fn begin(store: &'a Store) -> Result<Self> {
        // The store's lock keeps a sweep from seeing the directory before it is locked.
        let _locked = lock(&store.path("lock"), How::Exclusive)?;
        let path = loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = store.path("tmp").join(format!("{}-{number}", std::process::id()));
            match private::make_dir(&path, private::DIR) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                other => {
                    other.doing(|| format!("make {}", path.display()))?;
                    break path;
                }
            }
        };
        let alive =
            try_lock(&path)?.ok_or_else(|| Error::new(Kind::Bug, "a new transaction is locked already"))?;
        store.step(Step::Begun);
        Ok(Self { store, path, _alive: alive, counter: AtomicU32::new(0), documents: Mutex::default() })
    }

    /// Creates an empty root for one more layer.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn stage_layer(&self) -> Result<Staged> {
        let staged = self.store.layers.stage(&self.path, self.number())?;
        self.store.step(Step::LayerStaged);
        Ok(staged)
    }

    /// Stages a manifest or configuration. The commit adds it, also in place of a damaged one.
    ///
    /// # Errors
    /// `Corrupt` when the bytes do not have this digest; else when they cannot be written.
    pub fn stage_blob(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if Digest::of(bytes) != *digest {
            return Err(Error::new(Kind::Corrupt, format!("the bytes do not have digest {digest}")));
        }
        let path = self.path.join(digest.hex());
        create(&path)
            .and_then(|mut file| file.write_all(bytes))
            .doing(|| format!("write {}", path.display()))?;
        self.documents().insert(*digest);
        self.store.step(Step::BlobStaged);
        Ok(())
    }

    /// Creates a file, with its path, for bytes whose use is not known yet. It is removed with the transaction, or
    /// earlier.
    ///
    /// # Errors
    /// When it cannot be created.
    pub fn park(&self) -> Result<(File, PathBuf)> {
        let path = self.path.join(format!("park-{}", self.number()));
        let file = create(&path).doing(|| format!("make {}", path.display()))?;
        Ok((file, path))
    }

    /// Asks the store to keep a stored layer until this transaction ends. Returns `false` when the layer is gone and
    /// must be imported again. A layer whose tree is gone is marked as damaged, so that the new one replaces it.
    ///
    /// # Errors
    /// When the mark cannot be written or the journal cannot be read.
    pub fn keep(&self, layer: LayerId) -> Result<bool> {
        if !self.keep_unchecked(layer)? {
            return Ok(false);
        }
        if self.store.is_on_disk(layer) {
            return Ok(true);
        }
        let (_locked, mut now) = self.store.write()?;
        now.commit(Event::Looked { damaged: vec![layer], sound: Vec::new() })?;
        Ok(false)
    }

    /// Like [`Transaction::keep`], also for a layer whose tree is gone.
    pub(super) fn keep_unchecked(&self, layer: LayerId) -> Result<bool> {
        let (_locked, now) = self.store.write()?;
        if !now.layers.contains_key(&layer) {
            return Ok(false);
        }
        let path = self.path.join(format!("keep-{layer}"));
        create(&path).doing(|| format!("make {}", path.display()))?;
        Ok(true)
    }

    /// Commits images with their new layers, and the layers of blobs. All of it is durable when this returns; when it
    /// fails, the store is unchanged.
    ///
    /// # Errors
    /// When anything cannot be written.
    pub fn commit(self, batch: &Batch) -> Result<Vec<ImageRecord>> {
        self.make_durable(batch)?;
        self.store.step(Step::Synced);
        let (_locked, mut now) = self.store.write()?;
        let plan = Plan::of(&now, self.next_layer(&now)?, batch)?;
        let done = self.place(&plan, batch).and_then(|()| {
            now.commit(Event::Commit {
                layers: plan.records.clone(),
                images: plan.images.clone(),
                blobs: plan.blobs.clone(),
            })
        });
        if let Err(error) = done {
            for record in &plan.records {
                // Best effort: the next open sweeps layers that no record names.
                let _ = self.store.layers.discard(record.id);
            }
            return Err(error);
        }
        self.store.step(Step::Journalled);
        let committed = |image: &ImageRecord| {
            now.images.get(&image.manifest).cloned().ok_or_else(|| {
                Error::new(Kind::Corrupt, "the journal has records that contradict each other")
            })
        };
        plan.images.iter().map(committed).collect()
    }

    /// The one durability barrier: after it, a power cut does not change any staged byte.
    fn make_durable(&self, batch: &Batch) -> Result<()> {
        let doing = || format!("make {} durable", self.path.display());
        if !batch.layers.is_empty() {
            let dir = File::open(&self.path).doing(doing)?;
            return rustix::fs::syncfs(&dir).doing(doing);
        }
        for digest in self.documents().iter() {
            File::open(self.path.join(digest.hex())).and_then(|file| file.sync_all()).doing(doing)?;
        }
        Ok(())
    }

    /// Renames everything to its final place, durably.
    fn place(&self, plan: &Plan, batch: &Batch) -> Result<()> {
        for digest in self.documents().iter() {
            let place = self.store.blob_path(digest);
            std::fs::rename(self.path.join(digest.hex()), &place)
                .doing(|| format!("write {}", place.display()))?;
        }
        for (_, id) in &plan.placed {
            lost::announce(&self.path, *id)?;
        }
        if !plan.placed.is_empty() {
            // After a power cut these files must be there if the layers are.
            sync_dir(&self.path)?;
        }
        for (index, id) in &plan.placed {
            if let Some(layer) = batch.layers.get(*index) {
                self.store.layers.place(&layer.staged, *id)?;
            }
        }
        self.store.step(Step::Placed);
        sync_dir(&self.store.path("blobs/sha256"))?;
        if !plan.placed.is_empty() {
            self.store.layers.sync()?;
        }
        self.store.step(Step::NamesSynced);
        Ok(())
    }

    /// A number used neither in the journal nor by a directory: after damage these may differ.
    fn next_layer(&self, now: &Contents) -> Result<u64> {
        let present = self.store.layers.present()?.into_iter().map(|id| id.0.saturating_add(1)).max();
        Ok(now.next_layer.max(present.unwrap_or(0)))
    }

    fn documents(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn number(&self) -> u32 {
        self.counter.fetch_add(1, Ordering::Relaxed)
    }
}

impl Drop for Transaction<'_> {
    fn drop(&mut self) {
        // Best effort: the next open sweeps what stays.
        if self.store.trash.take(&self.path).is_err() {
            let _ = std::fs::remove_dir_all(&self.path);
        }
        let _ = self.store.trash.empty();
    }
}

fn create(path: &Path) -> std::io::Result<File> {
    private::create_new(path, private::FILE).or_else(|error| {
        // Another image has the same document.
        if error.kind() == ErrorKind::AlreadyExists {
            let file = private::open_or_create(path, private::FILE)?;
            return file.set_len(0).map(|()| file);
        }
        Err(error)
    })
}

/// The numbers for the new layers, from the contents of the store at the moment of the commit.
struct Plan {
    records: Vec<LayerRecord>,
    /// New layers to place, with their numbers. Layers that another transaction has committed meanwhile are left out.
    placed: Vec<(usize, LayerId)>,
    images: Vec<ImageRecord>,
    blobs: Vec<(Digest, LayerId)>,
}

impl Plan {
    fn of(now: &Contents, first: u64, batch: &Batch) -> Result<Self> {
        let mut plan =
            Self { records: Vec::new(), placed: Vec::new(), images: Vec::new(), blobs: Vec::new() };
        let mut ids = Vec::with_capacity(batch.layers.len());
        for (index, layer) in batch.layers.iter().enumerate() {
            ids.push(plan.number(now, first, (index, layer)));
        }
        let id_of = |pick: &Pick| match pick {
            Pick::Present(id) => now.layers.contains_key(id).then_some(*id),
            Pick::New(index) => ids.get(*index).copied(),
        };
        let gone =
            || Error::new(Kind::Busy, "a layer was removed from the store meanwhile").hint("try again");
        let imported_at = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        for image in &batch.images {
            let picked: Option<Vec<LayerId>> = image.layers.iter().map(id_of).collect();
            let layers = picked.ok_or_else(gone)?;
            let all: Option<Vec<&LayerRecord>> = layers.iter().map(|id| plan.record(now, id)).collect();
            let all = all.ok_or_else(gone)?;
            let record = ImageRecord {
                id: image.id,
                manifest: image.manifest,
                names: image.names.clone(),
                repo_digests: image.repo_digests.clone(),
                platform: image.platform.clone(),
                others: image.others.clone(),
                size_bytes: all.iter().map(|layer| layer.size_bytes).sum(),
                hidden: all.iter().rposition(|layer| layer.hides_all_lower).unwrap_or(0),
                layers,
                imported_at,
            };
            plan.images.push(record);
        }
        plan.blobs = batch.blobs.iter().filter_map(|(blob, pick)| Some((*blob, id_of(pick)?))).collect();
        Ok(plan)
    }

    fn number(&mut self, now: &Contents, first: u64, (index, layer): (usize, &NewLayer)) -> LayerId {
        let known = now.layers.values().find(|known| {
            let same_place = known.chain.is_none() || known.chain == layer.chain;
            known.diff_id == layer.diff_id && same_place && !known.damaged
        });
        if let Some(known) = known {
            return known.id;
        }
        let id = LayerId(first + self.records.len() as u64);
        self.placed.push((index, id));
        self.records.push(LayerRecord {
            id,
            diff_id: layer.diff_id,
            chain: layer.chain,
            hides_all_lower: layer.hides_all_lower,
            size_bytes: layer.size_bytes,
            entries: layer.entries,
            blobs: Vec::new(),
            damaged: false,
            boot: Some(super::boot::id()),
        });
        id
    }

    fn record<'b>(&'b self, now: &'b Contents, id: &LayerId) -> Option<&'b LayerRecord> {
        self.records.iter().find(|record| record.id == *id).or_else(|| now.layers.get(id))
    }
}

/// Names and digests to add to an image.
#[derive(Debug, Clone, Copy, Default)]
pub struct Label<'a> {
    /// Normalised references; other images lose them.
    pub names: &'a [String],
    /// Its names by digest at registries: `repository@digest`.
    pub repo_digests: &'a [String],
    /// The manifests of the images for other platforms under the same names.
    pub others: &'a [Digest],
}

/// Adds names and digests to an image in the store.
pub(super) fn label(store: &Store, manifest: &Digest, label: &Label<'_>) -> Result<Option<ImageRecord>> {
    let Label { names, repo_digests, others } = label;
    let has_all = |image: &ImageRecord| {
        names.iter().all(|name| image.names.contains(name))
            && repo_digests.iter().all(|digest| image.repo_digests.contains(digest))
            && (others.is_empty() || image.others == *others)
    };
    match store.image(manifest)? {
        None => return Ok(None),
        Some(image) if has_all(&image) => return Ok(Some(image)),
        Some(_) => {}
    }
    let (_locked, mut now) = store.write()?;
    let Some(mut image) = now.images.get(manifest).cloned() else { return Ok(None) };
    image.names.extend(names.iter().cloned());
    image.repo_digests.extend(repo_digests.iter().cloned());
    if !others.is_empty() {
        image.others = others.to_vec();
    }
    now.commit(Event::Commit { layers: Vec::new(), images: vec![image], blobs: Vec::new() })?;
    Ok(now.images.get(manifest).cloned())
}
