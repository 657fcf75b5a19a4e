//! Code common to import, pull and repair: selecting images, comparing them with the store, and the commit.

use std::collections::BTreeSet;

use super::document::{self, Blobs};
use super::layer::Limits;
use super::platform::Platform;
use super::progress::Progress;
use super::resolve::{Choice, Selected};
use super::unpack::{LayerDescriptor, Layers};
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::store::reference::Reference;
use crate::store::{ImageRecord, Label, NewImage, Pick, Store, chain_id};

/// What to import, and the names to give.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The platform to choose; this machine's by default.
    pub platform: Option<Platform>,
    /// Also import the images for all other platforms, for a machine that serves others.
    pub all_platforms: bool,
    /// Names instead of those in the source; then there must be only one image.
    pub names: Vec<String>,
    /// Limits of the resources that a layer may use.
    pub limits: Limits,
}

/// One import.
pub(super) struct Job<'a> {
    pub(super) store: &'a Store,
    pub(super) options: &'a ImportOptions,
    pub(super) progress: &'a dyn Progress,
    pub(super) wanted: Platform,
    /// The images to repair, when nothing else is imported.
    pub(super) heals: Option<&'a [ImageRecord]>,
}

/// An image with the descriptors of its layers, and its configuration.
pub(super) struct Planned {
    pub(super) image: Selected,
    id: Digest,
    config: Vec<u8>,
    pub(super) descriptors: Vec<LayerDescriptor>,
}

impl<'a> Job<'a> {
    /// The criteria for a source that is named `label`.
    pub(super) fn choice<'c>(&'c self, label: Option<&'c str>) -> Choice<'c> {
        Choice {
            wanted: &self.wanted,
            strict: self.options.platform.is_some(),
            all: self.options.all_platforms,
            label,
        }
    }

    pub(super) fn begin(&self) -> Result<Layers<'a>> {
        Layers::begin(self.store, self.options.limits, self.progress)
    }

    /// Replaces the names found in the source by the requested ones.
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
            [image] => {
                image.repo_digests = renamed(&image.repo_digests, &self.options.names)?;
                image.names = names;
            }
            heads => {
                let doing = format!("there are {} images; a name can be given to one only", heads.len());
                return Err(Error::invalid(doing).hint("leave --name out, or import them one by one"));
            }
        }
        Ok(selected)
    }

    /// The images as stored, if the store has all of them. They get the names of `selected`.
    ///
    /// An image that is known to be damaged counts as absent and is imported again.
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

    /// Returns whether an image of the source is to be imported.
    pub(super) fn wants(&self, planned: &Planned) -> bool {
        self.heals.is_none_or(|images| images.iter().any(|image| image.id == planned.id))
    }

    /// Unpacks the missing layers and commits all.
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
            let mut picks: Vec<Pick> = Vec::with_capacity(planned.descriptors.len());
            for descriptor in &planned.descriptors {
                let pick = layers.pick(descriptor, &picks, blobs)?;
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

/// Names by digest, with the repositories of `names` instead of their own.
fn renamed(repo_digests: &[String], names: &[String]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for name in names {
        let name = Reference::parse(name)?;
        let digests = repo_digests.iter().filter_map(|own| Some(own.rsplit_once('@')?.1));
        all.extend(digests.map(|digest| format!("{}/{}@{digest}", name.registry(), name.path())));
    }
    Ok(all)
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
    let mut descriptors = Vec::with_capacity(layers.len());
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let chain = chain_id(below.as_ref(), &diff_id);
        below = Some(chain);
        let url = layer.urls().as_ref().and_then(|urls| urls.first().cloned());
        descriptors.push(LayerDescriptor {
            blob: document::digest_of(layer)?,
            size: layer.size(),
            diff_id,
            chain,
            url,
        });
    }
    let id = document::digest_of(image.parsed.config())?;
    Ok(Planned { image, id, config, descriptors })
}

/// Gives an error a hint if the disk is full.
pub(super) fn name_full_disk(error: Error, store: &Store) -> Error {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = next {
        let code = match cause.downcast_ref::<std::io::Error>() {
            Some(error) => error.raw_os_error(),
            None => cause.downcast_ref::<rustix::io::Errno>().map(|errno| errno.raw_os_error()),
        };
        if matches!(code, Some(libc::ENOSPC | libc::EDQUOT)) {
            let hint =
                "free some space, for example with `coracle image rm`; nothing of this image was stored";
            return error.doing(format!("no room in {}", store.root().display())).hint(hint);
        }
        next = cause.source();
    }
    error
}
