//! The layers of imported images: each is found in the store, or unpacked exactly once.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use super::document::{Blobs, missing, wrong_digest, wrong_size};
use super::layer::{Applied, Limits};
use super::member_cache::copy;
use super::progress::{Outcome, Progress};
use super::{inherit_dir_attrs, sandbox};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind, Result};
use crate::store::{Batch, NewLayer, Pick, Staged, Store, Transaction};

/// Compressed bytes after which the free space is checked again.
const CHECK_EVERY: u64 = 1 << 20;

/// A layer, as a manifest and a configuration describe it.
#[derive(Debug, Clone)]
pub(super) struct LayerDescriptor {
    pub(super) blob: Digest,
    pub(super) size: u64,
    pub(super) diff_id: Digest,
    /// The chain id up to and including this layer.
    pub(super) chain: Digest,
    /// Where it can be downloaded if it is not with the image.
    pub(super) url: Option<String>,
}

/// Fetches layers that are not available locally.
pub(super) trait Fetch: Sync {
    /// Opens the blob of a layer.
    fn open(&self, descriptor: &LayerDescriptor) -> Result<Box<dyn Read + '_>>;

    /// Returns whether another read may return other bytes, after wrong ones.
    fn start_over(&self, descriptor: &LayerDescriptor) -> Result<bool>;
}

/// The result of unpacking a blob.
#[derive(Debug)]
struct Unpacked {
    staged: Staged,
    applied: Applied,
}

/// Collects layers for one transaction.
pub(super) struct Layers<'a> {
    store: &'a Store,
    pub(super) txn: Transaction<'a>,
    limits: Limits,
    progress: &'a dyn Progress,
    /// Layers unpacked as they were read, before an image needed them; by blob.
    early: BTreeMap<Digest, Unpacked>,
    /// Blobs whose bytes were verified.
    verified: BTreeSet<Digest>,
    pub(super) batch: Batch,
}

impl<'a> Layers<'a> {
    pub(super) fn begin(store: &'a Store, limits: Limits, progress: &'a dyn Progress) -> Result<Self> {
        let txn = store.begin()?;
        Ok(Self {
            store,
            txn,
            limits,
            progress,
            early: BTreeMap::new(),
            verified: BTreeSet::new(),
            batch: Batch::default(),
        })
    }

    /// Returns whether the bytes of `blob` were verified.
    pub(super) fn has_seen(&self, blob: &Digest) -> bool {
        self.verified.contains(blob)
    }

    /// Unpacks a blob of a stream that an image will need later.
    pub(super) fn unpack_early(&mut self, descriptor: &LayerDescriptor, reader: &mut dyn Read) -> Result<()> {
        let is_here = match self.store.layer_for(&descriptor.diff_id, &descriptor.chain)? {
            Some(layer) => self.txn.keep(layer.id)?,
            None => false,
        };
        if is_here {
            return self.verify(descriptor, reader);
        }
        let unpacked = self.unpack(descriptor, reader)?;
        self.verified.insert(descriptor.blob);
        self.early.insert(descriptor.blob, unpacked);
        Ok(())
    }

    /// Unpacks all missing layers of `descriptors`, several at once. The first error stops all.
    pub(super) fn unpack_ahead(
        &mut self,
        descriptors: &[LayerDescriptor],
        fetch: &dyn Fetch,
        at_a_time: usize,
    ) -> Result<()> {
        let mut wanted: Vec<&LayerDescriptor> = Vec::new();
        for descriptor in descriptors {
            let is_known = self.early.contains_key(&descriptor.blob) || self.at_hand(descriptor)?.is_some();
            if !is_known && !wanted.iter().any(|other| other.blob == descriptor.blob) {
                self.refuse_known_other(descriptor)?;
                wanted.push(descriptor);
            }
        }
        // Refuse before hours of download on a slow link. With rare exceptions, each layer needs at least the space of
        // its blob.
        self.store
            .ensure_room(wanted.iter().map(|descriptor| descriptor.size).fold(0, u64::saturating_add))?;
        let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let done = Mutex::new(Vec::new());
        let this = &*self;
        let work = || {
            while let Some(descriptor) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let result = this.unpack_from(descriptor, fetch, &stop);
                // The first error is the cause of the others.
                let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
                stop.fetch_or(result.is_err(), Ordering::Relaxed);
                done.push((descriptor.blob, result));
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..at_a_time.min(wanted.len()) {
                // Without more threads this one unpacks all of them in turn.
                if std::thread::Builder::new().name("unpack".to_owned()).spawn_scoped(scope, work).is_err() {
                    break;
                }
            }
            work();
        });
        for (blob, result) in done.into_inner().unwrap_or_else(PoisonError::into_inner) {
            self.early.insert(blob, result?);
            self.verified.insert(blob);
        }
        Ok(())
    }

    fn unpack_from(
        &self,
        descriptor: &LayerDescriptor,
        fetch: &dyn Fetch,
        stop: &AtomicBool,
    ) -> Result<Unpacked> {
        let once = || self.unpack(descriptor, &mut Stoppable { inner: fetch.open(descriptor)?, stop });
        match once() {
            Err(error) if error.kind() == Kind::Corrupt && fetch.start_over(descriptor)? => {
                self.progress.warn(&format!("{}; downloading it again", error.chain()));
                once()
            }
            other => other,
        }
    }

    /// Only verifies a blob if the store has its layer; returns `false`, without reading, if it does not.
    pub(super) fn recognise(&mut self, blob: &Digest, size: u64, reader: &mut dyn Read) -> Result<bool> {
        match self.store.layer_of_blob(blob)? {
            // A layer that depends on its parents may be needed again on other ones.
            Some(layer) if layer.chain.is_none() && self.txn.keep(layer.id)? => {
                let descriptor =
                    LayerDescriptor { blob: *blob, size, diff_id: layer.diff_id, chain: *blob, url: None };
                self.verify(&descriptor, reader).map(|()| true)
            }
            _ => Ok(false),
        }
    }

    /// The layer of `descriptor`, on top of `below`; everything needed is read from `blobs`.
    pub(super) fn pick(
        &mut self,
        descriptor: &LayerDescriptor,
        below: &[Pick],
        blobs: &dyn Blobs,
    ) -> Result<Pick> {
        let pick = match self.at_hand(descriptor)? {
            Some(pick) => {
                self.verify_other_copy(descriptor, pick, blobs)?;
                pick
            }
            None => {
                let unpacked = match self.early.remove(&descriptor.blob) {
                    Some(unpacked) => unpacked,
                    None => {
                        self.refuse_known_other(descriptor)?;
                        let mut opened = blobs.open(&descriptor.blob)?.ok_or_else(|| absent(descriptor))?;
                        if opened.size != descriptor.size {
                            return Err(wrong_size(&descriptor.blob, descriptor.size, opened.size));
                        }
                        let unpacked = self.unpack(descriptor, &mut opened.reader)?;
                        self.verified.insert(descriptor.blob);
                        unpacked
                    }
                };
                self.finish_layer(descriptor, below, unpacked)?
            }
        };
        // The configuration alone may claim a false layer for a blob, which would then affect other images.
        if self.has_seen(&descriptor.blob) {
            self.batch.blobs.push((descriptor.blob, pick));
        }
        Ok(pick)
    }

    /// Refuses a configuration that contradicts the known layer of a blob.
    fn refuse_known_other(&self, descriptor: &LayerDescriptor) -> Result<()> {
        match self.store.layer_of_blob(&descriptor.blob)? {
            Some(layer) if layer.diff_id != descriptor.diff_id => {
                Err(wrong_diff_id(descriptor, &layer.diff_id))
            }
            _ => Ok(()),
        }
    }

    /// A layer that this import has unpacked already, or that the store has.
    fn at_hand(&self, descriptor: &LayerDescriptor) -> Result<Option<Pick>> {
        let fits = |layer: &NewLayer| {
            layer.diff_id == descriptor.diff_id
                && layer.chain.as_ref().is_none_or(|chain| *chain == descriptor.chain)
        };
        if let Some(index) = self.batch.layers.iter().position(fits) {
            return Ok(Some(Pick::New(index)));
        }
        match self.store.layer_for(&descriptor.diff_id, &descriptor.chain)? {
            Some(layer) if self.txn.keep(layer.id)? => Ok(Some(Pick::Present(layer.id))),
            _ => Ok(None),
        }
    }

    /// Verifies a blob whose layer is available, without unpacking it: a damaged blob is not accepted.
    fn verify_other_copy(
        &mut self,
        descriptor: &LayerDescriptor,
        pick: Pick,
        blobs: &dyn Blobs,
    ) -> Result<()> {
        let is_known = match pick {
            Pick::Present(_) => self
                .store
                .layer_of_blob(&descriptor.blob)?
                .is_some_and(|layer| layer.diff_id == descriptor.diff_id),
            Pick::New(_) => false,
        };
        if is_known || self.has_seen(&descriptor.blob) {
            if is_known {
                self.progress.end(&descriptor.blob, Outcome::Present);
            }
            return Ok(());
        }
        if !blobs.is_cheap() {
            self.progress.end(&descriptor.blob, Outcome::Present);
            return Ok(());
        }
        match blobs.open(&descriptor.blob)? {
            Some(mut opened) => self.verify(descriptor, &mut opened.reader),
            // Left out on purpose, by a writer that relies on the layer being known.
            None => Ok(()),
        }
    }

    fn verify(&mut self, descriptor: &LayerDescriptor, reader: &mut dyn Read) -> Result<()> {
        self.progress.begin(&descriptor.blob, descriptor.size);
        let mut watched = Watched::new(reader, descriptor, self.progress);
        copy(&mut watched, &mut io::sink())?;
        watched.check(descriptor)?;
        self.verified.insert(descriptor.blob);
        self.progress.end(&descriptor.blob, Outcome::Present);
        Ok(())
    }

    fn unpack(&self, descriptor: &LayerDescriptor, reader: &mut dyn Read) -> Result<Unpacked> {
        // With rare exceptions, a layer needs at least the space of its blob.
        self.store.ensure_room(descriptor.size)?;
        self.progress.begin(&descriptor.blob, descriptor.size);
        let staged = self.txn.stage_layer()?;
        let mut watched = Watched::new(reader, descriptor, self.progress);
        let mut since = 0;
        let mut watch = |count: u64| {
            since += count;
            if since < CHECK_EVERY {
                return Ok(());
            }
            since = 0;
            self.store.ensure_room(0)
        };
        let applied = sandbox::apply(&mut watched, &staged, &self.limits, &mut watch);
        let applied = match applied {
            Ok(applied) => watched.rest().and_then(|()| watched.check(descriptor)).map(|()| applied),
            // A blob with a wrong digest explains every other error in it.
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::Invalid) && watched.rest().is_ok() => {
                Err(watched.check(descriptor).err().unwrap_or(error))
            }
            Err(error) => Err(error),
        }
        .map_err(|e| e.doing(format!("unpack layer {}", descriptor.blob)))?;
        if applied.diff_id != descriptor.diff_id {
            return Err(wrong_diff_id(descriptor, &applied.diff_id));
        }
        for warning in &applied.warnings {
            self.progress.warn(&format!("layer {}: {warning}", descriptor.blob));
        }
        self.progress.end(&descriptor.blob, Outcome::Unpacked);
        Ok(Unpacked { staged, applied })
    }

    /// Adds an unpacked layer to the transaction, with the attributes it inherits from the layers below.
    fn finish_layer(
        &mut self,
        descriptor: &LayerDescriptor,
        below: &[Pick],
        unpacked: Unpacked,
    ) -> Result<Pick> {
        let Unpacked { staged, applied } = unpacked;
        if applied.diff_id != descriptor.diff_id {
            return Err(wrong_diff_id(descriptor, &applied.diff_id));
        }
        let leans = applied.implicit_dirs && !applied.hides_all_lower;
        if leans {
            inherit_dir_attrs::inherit(staged.root().as_fd(), &self.lowers(below), &staged.index_path())?;
        }
        self.batch.layers.push(NewLayer {
            staged,
            diff_id: applied.diff_id,
            chain: leans.then_some(descriptor.chain),
            hides_all_lower: applied.hides_all_lower,
            size_bytes: applied.bytes,
            entries: applied.entries,
        });
        Ok(Pick::New(self.batch.layers.len() - 1))
    }

    /// The directories of the layers below, topmost first.
    fn lowers(&self, below: &[Pick]) -> Vec<PathBuf> {
        let path = |pick: &Pick| match pick {
            Pick::Present(id) => Some(self.store.lower_dir(*id)),
            Pick::New(index) => self.batch.layers.get(*index).map(|layer| layer.staged.path()),
        };
        below.iter().rev().filter_map(path).collect()
    }
}

fn absent(descriptor: &LayerDescriptor) -> Error {
    match &descriptor.url {
        None => missing(&descriptor.blob),
        Some(url) => {
            let url: String = url.chars().take(200).collect();
            let doing = format!(
                "layer {} is a foreign layer: it is not with the image, but at {url:?}",
                descriptor.blob
            );
            Error::new(Kind::Unsupported, doing).hint("save the image with its foreign layers")
        }
    }
}

fn wrong_diff_id(descriptor: &LayerDescriptor, actual: &Digest) -> Error {
    let (blob, promised) = (&descriptor.blob, &descriptor.diff_id);
    Error::new(Kind::Corrupt, format!("layer {blob} unpacks to {actual}; the configuration says {promised}"))
        .hint("the image contradicts itself; build it again")
}

/// A reader that fails after another layer has failed.
struct Stoppable<'a> {
    inner: Box<dyn Read + 'a>,
    stop: &'a AtomicBool,
}

impl Read for Stoppable<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other(Error::new(Kind::System, "another layer failed")));
        }
        self.inner.read(buffer)
    }
}

/// Reads a blob, hashes and counts it, and stops at more bytes than its descriptor allows.
struct Watched<'a> {
    inner: &'a mut dyn Read,
    hasher: Hasher,
    count: u64,
    promised: u64,
    blob: Digest,
    progress: &'a dyn Progress,
}

impl<'a> Watched<'a> {
    fn new(inner: &'a mut dyn Read, descriptor: &LayerDescriptor, progress: &'a dyn Progress) -> Self {
        Self {
            inner,
            hasher: Hasher::new(),
            count: 0,
            promised: descriptor.size,
            blob: descriptor.blob,
            progress,
        }
    }

    /// Reads the bytes that the decoder did not need.
    fn rest(&mut self) -> Result<()> {
        copy(self, &mut io::sink()).map(drop)
    }

    /// Compares with the descriptor, once everything is read.
    fn check(&self, descriptor: &LayerDescriptor) -> Result<()> {
        if self.count != descriptor.size {
            return Err(wrong_size(&descriptor.blob, descriptor.size, self.count));
        }
        let actual = self.hasher.clone().finish();
        if actual != descriptor.blob {
            return Err(wrong_digest(&descriptor.blob, &actual));
        }
        Ok(())
    }
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        self.count += count as u64;
        if self.count > self.promised {
            return Err(io::Error::other(wrong_size(&self.blob, self.promised, self.count)));
        }
        self.progress.advance(&self.blob, count as u64);
        Ok(count)
    }
}
