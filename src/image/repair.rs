//! `image repair`: what is damaged comes in again, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::import::{self, ImportOptions};
use super::platform::Platform;
use super::progress::Progress;
use super::pull::{PullOptions, pull};
use crate::error::{Error, Kind, Result};
use crate::store::reference::Reference;
use crate::store::{Finding, ImageRecord, Store};

/// Somewhere the blobs of an image can be had again.
///
/// What it brings must go through the store's ordinary way in: a layer that is quarantined counts as absent there, and
/// one that comes in anew takes its place in every image.
pub trait Origin {
    /// Brings the damaged layers and documents of `images` into the store again.
    ///
    /// # Errors
    /// When it does not have them, or the store cannot be written.
    fn bring(&self, store: &Store, images: &[ImageRecord], progress: &dyn Progress) -> Result<()>;
}

/// An OCI layout or an archive that has the images, under whatever names and however compressed.
#[derive(Debug, Clone)]
pub struct FromPath(pub PathBuf);

impl Origin for FromPath {
    fn bring(&self, store: &Store, images: &[ImageRecord], progress: &dyn Progress) -> Result<()> {
        let mut by_platform: BTreeMap<Platform, Vec<ImageRecord>> = BTreeMap::new();
        for image in images {
            by_platform.entry(image.platform.clone()).or_default().push(image.clone());
        }
        for (platform, images) in by_platform {
            let options = ImportOptions { platform: Some(platform), ..ImportOptions::default() };
            import::heal(store, import::open_source(&self.0)?, &images, &options, progress)?;
        }
        Ok(())
    }
}

/// The registries that the images came from. What is whole here is not asked for again.
#[derive(Debug, Clone, Default)]
pub struct FromRegistry(pub PullOptions);

impl Origin for FromRegistry {
    fn bring(&self, store: &Store, images: &[ImageRecord], progress: &dyn Progress) -> Result<()> {
        for image in images {
            // By the digest, so that it is the very image and no name moves.
            let suffix = format!("@{}", image.manifest);
            let Some(from) = image.repo_digests.iter().find(|name| name.ends_with(&suffix)) else {
                let doing = format!("image {} came from no registry", shown(image));
                return Err(Error::new(Kind::NotFound, doing)
                    .hint("name an archive or a layout that has it with --from, or import it again"));
            };
            let options = PullOptions { platform: Some(image.platform.clone()), ..self.0.clone() };
            pull(store, &Reference::parse(from)?, &options, progress)?;
        }
        Ok(())
    }
}

fn shown(image: &ImageRecord) -> String {
    image.names.first().cloned().unwrap_or_else(|| image.id.to_string())
}

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// The journal was damaged and is written anew.
    pub journal: bool,
    /// What was damaged before.
    pub found: Vec<Finding>,
    /// What still is.
    pub left: Vec<Finding>,
}

/// Findings that are kept to be shown; there may be one for each file of a store.
const MOST_FINDINGS: usize = 1000;

/// Verifies `images`, brings what is damaged in again from `origin`, and verifies that.
///
/// # Errors
/// What the origin says.
pub fn repair(
    store: &Store,
    images: &[ImageRecord],
    origin: &dyn Origin,
    progress: &dyn Progress,
) -> Result<Repaired> {
    let journal = store.repair_journal()?;
    let found = findings(store, images)?;
    if found.is_empty() {
        return Ok(Repaired { journal, ..Repaired::default() });
    }
    let named: BTreeSet<&str> =
        found.iter().flat_map(|finding| &finding.images).map(String::as_str).collect();
    let is_damaged = |image: &&ImageRecord| {
        named.contains(image.id.to_string().as_str())
            || image.names.iter().any(|name| named.contains(name.as_str()))
    };
    let damaged: Vec<ImageRecord> = images.iter().filter(is_damaged).cloned().collect();
    origin.bring(store, &damaged, progress)?;
    let manifests: BTreeSet<_> = damaged.iter().map(|image| image.manifest).collect();
    let again: Vec<ImageRecord> =
        store.images()?.into_iter().filter(|image| manifests.contains(&image.manifest)).collect();
    let left = findings(store, &again)?;
    store.gc()?;
    Ok(Repaired { journal, found, left })
}

fn findings(store: &Store, images: &[ImageRecord]) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    store.verify(images, &mut |finding| {
        if found.len() < MOST_FINDINGS || found.iter().all(|known: &Finding| known.images != finding.images) {
            found.push(finding.clone());
        }
    })?;
    Ok(found)
}
