//! `image import`: OCI layouts and docker archives, from a directory, a file or a pipe, in one pass.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::Path;

use super::document::{self, Blobs};
use super::layer::Limits;
use super::layout::Layout;
use super::platform::{self, Platform};
use super::progress::Progress;
use super::resolve::{self, Choice, Selected};
use super::unpack::{Layers, Place};
use super::{archive, names};
use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::store::reference::Reference;
use crate::store::{ImageRecord, Label, NewImage, Pick, Store, chain_id};

/// Where an image comes from.
pub enum Source {
    /// An OCI layout in a directory.
    Dir(Layout),
    /// An archive, compressed or not.
    Stream(Stream),
}

/// An archive that is read once, from its beginning to its end.
pub struct Stream {
    pub(super) reader: Box<dyn Read>,
    /// What it is called, for images that have only a tag.
    pub(super) label: Option<String>,
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Dir(layout) => f.debug_tuple("Dir").field(layout).finish(),
            Self::Stream(stream) => f.debug_tuple("Stream").field(stream).finish(),
        }
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Source {
    /// An archive from any reader, which is called `label`.
    pub fn stream(reader: impl Read + 'static, label: Option<String>) -> Self {
        Self::Stream(Stream { reader: Box::new(reader), label })
    }
}

/// What to import, and under which name.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The platform to choose; this machine's by default.
    pub platform: Option<Platform>,
    /// The images for every other platform too, for whoever serves other machines.
    pub all_platforms: bool,
    /// Names in the place of those that the source gives; then there must be only one image.
    pub names: Vec<String>,
    /// What a layer may cost.
    pub limits: Limits,
}

/// Opens what `path` names: a layout directory, an archive, or standard input for `-`.
///
/// # Errors
/// `NotFound` when nothing is there, `Invalid` when a directory is no layout or standard input is a terminal.
pub fn open_source(path: &Path) -> Result<Source> {
    if path == Path::new("-") {
        let stdin = std::io::stdin();
        if stdin.is_terminal() {
            return Err(Error::invalid("standard input is a terminal, not an archive")
                .hint("pipe an archive in, or name a file or directory"));
        }
        return Ok(Source::stream(stdin, None));
    }
    if path.metadata().doing(|| format!("open {}", path.display()))?.is_dir() {
        return Layout::open(path).map(Source::Dir);
    }
    let file = File::open(path).doing(|| format!("open {}", path.display()))?;
    Ok(Source::stream(file, names::label_of(path)))
}

/// Imports the images of `source` that run on the wanted platform, all of them or none. What the store has already is
/// not unpacked again, and an image it has whole costs no more than reading its manifest.
///
/// # Errors
/// `NotFound` when a part is missing or nothing fits the platform (the message lists what there is); `Corrupt` when
/// something is not what it is said to be; `Unsupported` for what is no image. The store is as before then.
pub fn import(
    store: &Store,
    source: Source,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<Vec<ImageRecord>> {
    let wanted = options.platform.clone().unwrap_or_else(platform::host);
    run(&Job { store, options, progress, wanted, heals: None }, source)
}

/// Brings in again what is damaged of `images`, and nothing else of `source`: an image there is the same as one here when
/// its configuration is. No image comes or goes, no name moves.
///
/// # Errors
/// As for [`import`].
pub fn heal(
    store: &Store,
    source: Source,
    images: &[ImageRecord],
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<()> {
    let wanted = options.platform.clone().unwrap_or_else(platform::host);
    run(&Job { store, options, progress, wanted, heals: Some(images) }, source).map(drop)
}

fn run(job: &Job<'_>, source: Source) -> Result<Vec<ImageRecord>> {
    match source {
        Source::Dir(layout) => job.layout(&layout),
        Source::Stream(stream) => archive::import(job, stream),
    }
    .map_err(|error| name_full_disk(error, job.store))
}

/// One import.
pub(super) struct Job<'a> {
    pub(super) store: &'a Store,
    pub(super) options: &'a ImportOptions,
    pub(super) progress: &'a dyn Progress,
    pub(super) wanted: Platform,
    /// The images to heal, when nothing else is to be brought in.
    pub(super) heals: Option<&'a [ImageRecord]>,
}

/// An image with the places of its layers and the configuration that gave them.
pub(super) struct Planned {
    pub(super) image: Selected,
    id: Digest,
    config: Vec<u8>,
    pub(super) places: Vec<Place>,
}

impl<'a> Job<'a> {
    fn layout(&self, layout: &Layout) -> Result<Vec<ImageRecord>> {
        let label = names::label_of(layout.path());
        let choice = self.choice(label.as_deref());
        let doing = || format!("import {}", layout.path().display());
        let selected = resolve::select(&layout.index()?, layout, &choice, self.progress)
            .map_err(|e| e.doing(doing()))?;
        let selected = self.named(selected)?;
        if let Some(known) = self.known(&selected)? {
            return Ok(known);
        }
        // Whoever imports the same just now does the work for us.
        let _claim = selected.first().map(|first| self.store.claim(&first.manifest)).transpose()?;
        if let Some(known) = self.known(&selected)? {
            return Ok(known);
        }
        let layers = self.begin()?;
        self.finish(layers, selected, layout).map_err(|e| e.doing(doing()))
    }

    /// What to choose by from a source that is called `label`.
    pub(super) fn choice<'c>(&'c self, label: Option<&'c str>) -> Choice<'c> {
        Choice { wanted: &self.wanted, all: self.options.all_platforms, label }
    }

    pub(super) fn begin(&self) -> Result<Layers<'a>> {
        Layers::begin(self.store, self.options.limits, self.progress)
    }

    /// Puts the names that were asked for in the place of those found.
    pub(super) fn named(&self, mut selected: Vec<Selected>) -> Result<Vec<Selected>> {
        let names = self.options.names.iter().map(|name| Ok(Reference::parse(name)?.to_string()));
        let names = names.collect::<Result<Vec<_>>>()?;
        if names.is_empty() {
            return Ok(selected);
        }
        let others: BTreeSet<Digest> = selected.iter().flat_map(|image| &image.others).copied().collect();
        let mut heads: Vec<&mut Selected> =
            selected.iter_mut().filter(|image| !others.contains(&image.manifest)).collect();
        match heads.as_mut_slice() {
            [image] => image.names = names,
            heads => {
                let doing = format!("there are {} images; a name can be given to one only", heads.len());
                return Err(Error::invalid(doing).hint("leave --name out, or import them one by one"));
            }
        }
        Ok(selected)
    }

    /// The images as the store has them, if it has them all. They get the names they have here.
    ///
    /// One that is known to be damaged is none: it comes in again.
    pub(super) fn known(&self, selected: &[Selected]) -> Result<Option<Vec<ImageRecord>>> {
        for image in selected {
            match self.store.image(&image.manifest)? {
                Some(known) if self.heals.is_none() && self.store.is_sound(&known)? => {}
                _ => return Ok(None),
            }
        }
        selected
            .iter()
            .map(|image| {
                let Selected { names, repo_digests, others, .. } = image;
                self.store.label(&image.manifest, &Label { names, repo_digests, others })
            })
            .collect()
    }

    /// Whether an image of the source is one to bring in.
    pub(super) fn wants(&self, planned: &Planned) -> bool {
        self.heals.is_none_or(|images| images.iter().any(|image| image.id == planned.id))
    }

    /// Unpacks what is missing and commits all.
    pub(super) fn finish(
        &self,
        mut layers: Layers<'a>,
        selected: Vec<Selected>,
        blobs: &dyn Blobs,
    ) -> Result<Vec<ImageRecord>> {
        for image in selected {
            let planned = plan(image, blobs)?;
            if !self.wants(&planned) {
                continue;
            }
            let mut picks: Vec<Pick> = Vec::with_capacity(planned.places.len());
            for place in &planned.places {
                let pick = layers.pick(place, &picks, blobs)?;
                picks.push(pick);
            }
            let is_here = self.store.image(&planned.image.manifest)?.is_some();
            if self.heals.is_none() || is_here {
                layers.txn.stage_blob(&planned.image.manifest, &planned.image.manifest_bytes)?;
            }
            layers.txn.stage_blob(&planned.id, &planned.config)?;
            if self.heals.is_some() {
                continue;
            }
            layers.batch.images.push(NewImage {
                id: planned.id,
                manifest: planned.image.manifest,
                names: planned.image.names,
                repo_digests: planned.image.repo_digests,
                platform: planned.image.platform,
                others: planned.image.others,
                layers: picks,
            });
        }
        layers.txn.commit(&layers.batch)
    }
}

/// Reads the configuration and pairs its diffIDs with the manifest's layers.
pub(super) fn plan(image: Selected, blobs: &dyn Blobs) -> Result<Planned> {
    let doing = || format!("configuration of image {}", image.manifest);
    let config = document::fetch(blobs, image.parsed.config()).map_err(|e| e.doing(doing()))?;
    let (_, diff_ids) = document::parse_config(&config).map_err(|e| e.doing(doing()))?;
    let layers = image.parsed.layers();
    if layers.len() != diff_ids.len() {
        let doing = format!("the manifest has {} layers, the configuration {}", layers.len(), diff_ids.len());
        return Err(Error::new(Kind::Corrupt, doing).hint("the image contradicts itself; build it again"));
    }
    let mut below = None;
    let mut places = Vec::with_capacity(layers.len());
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let chain = chain_id(below.as_ref(), &diff_id);
        below = Some(chain);
        let url = layer.urls().as_ref().and_then(|urls| urls.first().cloned());
        places.push(Place { blob: document::digest_of(layer)?, size: layer.size(), diff_id, chain, url });
    }
    let id = document::digest_of(image.parsed.config())?;
    Ok(Planned { image, id, config, places })
}

/// Says what to do when the disk is full, whatever was being written.
pub(super) fn name_full_disk(error: Error, store: &Store) -> Error {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = next {
        let code = match cause.downcast_ref::<std::io::Error>() {
            Some(error) => error.raw_os_error(),
            None => cause.downcast_ref::<rustix::io::Errno>().map(|errno| errno.raw_os_error()),
        };
        if matches!(code, Some(libc::ENOSPC | libc::EDQUOT)) {
            let hint = "free some space, for example with `coracle image rm`; nothing of this image was kept";
            return error.doing(format!("no room in {}", store.root().display())).hint(hint);
        }
        next = cause.source();
    }
    error
}
