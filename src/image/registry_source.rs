//! A registry as the source of an image's documents and layers.
//!
//! Layers are unpacked while they are downloaded, and no copy of the compressed blob is written. A power cut would then
//! lose all of a large layer. So a layer is also spooled to `partial/` when it is very large, when the link has failed
//! in this pull, or when an earlier attempt to download it failed: each attempt leaves a mark.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Take};
use std::sync::{Mutex, PoisonError};

use oci_spec::image::Descriptor;

use super::document::{Blobs, Opened};
use super::progress::Progress;
use super::registry::{Download, Fetched, Repository};
use super::unpack::{Fetch, LayerDescriptor};
use crate::digest::Digest;
use crate::error::Result;
use crate::store::{Partial, Store};

/// A smaller layer is downloaded again rather than marked.
const MIN_MARKED: u64 = 1 << 20;

/// A repository, for one pull.
pub(super) struct RegistrySource<'a> {
    pub(super) repository: &'a Repository<'a>,
    pub(super) store: &'a Store,
    pub(super) progress: &'a dyn Progress,
    /// A layer of at least this many bytes is always spooled.
    pub(super) spool_above: u64,
    documents: Mutex<BTreeMap<Digest, Vec<u8>>>,
    /// The layers that [`Blobs::open`] may request.
    descriptors: Vec<LayerDescriptor>,
}

impl<'a> RegistrySource<'a> {
    pub(super) fn new(
        repository: &'a Repository<'a>,
        store: &'a Store,
        progress: &'a dyn Progress,
        spool_above: u64,
    ) -> Self {
        let (documents, descriptors) = (Mutex::default(), Vec::new());
        Self { repository, store, progress, spool_above, documents, descriptors }
    }

    /// Keeps a document that was downloaded already.
    pub(super) fn know(&self, found: &Fetched) {
        self.keep(found.digest, found.bytes.clone());
    }

    /// Sets the layers to be requested.
    pub(super) fn expect(&mut self, descriptors: Vec<LayerDescriptor>) {
        self.descriptors = descriptors;
    }

    /// The layers to be requested.
    pub(super) fn descriptors(&self) -> &[LayerDescriptor] {
        &self.descriptors
    }

    fn keep(&self, digest: Digest, bytes: Vec<u8>) {
        self.documents.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, bytes);
    }

    fn document(&self, digest: &Digest, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let known = self.documents.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned();
        if let Some(bytes) = known {
            return Ok(bytes);
        }
        let media_type = descriptor.media_type().to_string();
        let is_manifest = media_type.contains(".index.") || media_type.contains(".manifest.");
        let bytes = if is_manifest {
            self.repository.by_digest(digest)?.bytes
        } else {
            self.repository.small_blob(digest, descriptor.size())?
        };
        self.keep(*digest, bytes.clone());
        Ok(bytes)
    }

    /// The file to spool a download to; `None` when it is not spooled.
    fn partial(&self, descriptor: &LayerDescriptor) -> Result<Option<Partial>> {
        match self.store.partial(&descriptor.blob)? {
            Some(partial) if partial.length() <= descriptor.size => return Ok(Some(partial)),
            None if descriptor.size < MIN_MARKED => return Ok(None),
            Some(_) | None => {}
        }
        let begun = self.store.begin_partial(&descriptor.blob)?;
        let is_spooled = descriptor.size >= self.spool_above || self.repository.was_cut();
        Ok(is_spooled.then_some(begun))
    }
}

impl Blobs for RegistrySource<'_> {
    fn open(&self, digest: &Digest) -> Result<Option<Opened<'_>>> {
        let Some(descriptor) = self.descriptors.iter().find(|descriptor| descriptor.blob == *digest) else {
            return Ok(None);
        };
        Ok(Some(Opened { reader: Fetch::open(self, descriptor)?, size: descriptor.size }))
    }

    fn open_document(&self, digest: &Digest, descriptor: &Descriptor) -> Result<Option<Opened<'_>>> {
        let bytes = self.document(digest, descriptor)?;
        let size = bytes.len() as u64;
        Ok(Some(Opened { reader: Box::new(io::Cursor::new(bytes)), size }))
    }

    fn is_cheap(&self) -> bool {
        false
    }
}

impl Fetch for RegistrySource<'_> {
    fn open(&self, descriptor: &LayerDescriptor) -> Result<Box<dyn Read + '_>> {
        let urls: Vec<String> = descriptor.url.iter().cloned().collect();
        let Some(partial) = self.partial(descriptor)? else {
            return Ok(Box::new(self.repository.blob(&descriptor.blob, descriptor.size, 0, &urls)));
        };
        let from = partial.length();
        let had = partial.reader()?.take(from);
        let rest = self.repository.blob(&descriptor.blob, descriptor.size, from, &urls);
        Ok(Box::new(Spooled { had, rest, partial: Some(partial), source: self, blob: descriptor.blob }))
    }

    fn start_over(&self, descriptor: &LayerDescriptor) -> Result<bool> {
        let had_some = self.store.partial(&descriptor.blob)?.is_some_and(|partial| partial.length() > 0);
        self.store.end_partial(&descriptor.blob)?;
        Ok(had_some || self.repository.was_cut())
    }
}

/// Returns the spooled bytes first, then the downloaded ones, which are spooled too.
struct Spooled<'a> {
    had: Take<File>,
    rest: Download<'a>,
    partial: Option<Partial>,
    source: &'a RegistrySource<'a>,
    blob: Digest,
}

impl Read for Spooled<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.had.read(buffer)?;
        if count > 0 {
            return Ok(count);
        }
        let count = self.rest.read(buffer)?;
        let kept = self.partial.as_mut().map(|partial| partial.append(&buffer[..count]));
        if let Some(Err(error)) = kept {
            // A full disk may still have room for the image itself.
            self.partial = None;
            self.source.progress.warn(&format!("the download is not spooled: {}", error.chain()));
            self.source.store.end_partial(&self.blob).map_err(io::Error::other)?;
        }
        Ok(count)
    }
}
