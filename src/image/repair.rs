//! `image repair`: imports the damaged parts again, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::import::{self, ImportOptions};
use super::platform::Platform;
use super::progress::Progress;
use super::pull::{PullOptions, pull};
use crate::error::{Error, Kind, Result};
use crate::store::reference::Reference;
use crate::store::{Finding, ImageRecord, Store};

/// A source of the blobs of damaged images.
///
/// It uses the store's ordinary import: a quarantined layer counts as absent there, and a newly imported one replaces
/// it in every image.
pub trait Origin {
    /// Imports the damaged layers and documents of `images` again.
    ///
    /// # Errors
    /// When the source does not have them, or the store cannot be written.
    fn import(&self, store: &Store, images: &[ImageRecord], progress: &dyn Progress) -> Result<()>;
}

/// An OCI layout or an archive that has the images, under any names and with any compression.
#[derive(Debug, Clone)]
pub struct FromPath(pub PathBuf);

impl Origin for FromPath {
    fn import(&self, store: &Store, images: &[ImageRecord], progress: &dyn Progress) -> Result<()> {
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

/// The registries of the images. Undamaged data is not requested again.
#[derive(Debug, Clone, Default)]
pub struct FromRegistry(pub PullOptions);

impl Origin for FromRegistry {
    fn import(&self, store: &Store, images: &[ImageRecord], progress: &dyn Progress) -> Result<()> {
        for image in images {
            // By digest, so that exactly this image is imported and no name moves.
            let suffix = format!("@{}", image.manifest);
            let Some(from) = image.repo_digests.iter().find(|name| name.ends_with(&suffix)) else {
                let doing = format!("image {} has no registry", shown(image));
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

/// The result of a repair.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repaired {
    /// The journal was damaged and has been rewritten.
    pub journal: bool,
    /// The damage before the repair.
    pub found: Vec<Finding>,
    /// The damage that remains.
    pub left: Vec<Finding>,
}

/// The most findings kept for display; there may be one for each file of a store.
const MAX_FINDINGS: usize = 1000;

/// Verifies `images`, imports the damaged parts again from `origin`, and verifies these.
///
/// # Errors
/// Those of the origin.
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
    origin.import(store, &damaged, progress)?;
    let manifests: BTreeSet<_> = damaged.iter().map(|image| image.manifest).collect();
    let again: Vec<ImageRecord> =
        store.images()?.into_iter().filter(|image| manifests.contains(&image.manifest)).collect();
    let left = findings(store, &again)?;
    store.gc_known()?;
    Ok(Repaired { journal, found, left })
}

fn findings(store: &Store, images: &[ImageRecord]) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    store.verify(images, &mut |finding| {
        if found.len() < MAX_FINDINGS || found.iter().all(|known: &Finding| known.images != finding.images) {
            found.push(finding.clone());
        }
    })?;
    Ok(found)
}
