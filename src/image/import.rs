//! `image import`: OCI layouts and docker archives, from a directory, a file or a pipe, in one pass.

use super::job::{Job, name_full_disk};
use super::layout::Layout;
use super::progress::Progress;
use super::{archive, names, platform, resolve};
use crate::error::Result;
use crate::store::{ImageRecord, Store};

pub use super::job::ImportOptions;
pub use super::source::{Source, open_source};

/// Imports the images of `source` that run on the wanted platform, all of them or none. Layers that the store has are
/// not unpacked again, and an image that it has completely costs no more than reading its manifest.
///
/// # Errors
/// `NotFound` when a part is missing or nothing fits the platform (the message lists the available ones); `Corrupt`
/// when bytes do not match their descriptor; `Unsupported` for other artifacts than images. The store is unchanged
/// then.
pub fn import(
    store: &Store,
    source: Source,
    options: &ImportOptions,
    progress: &dyn Progress,
) -> Result<Vec<ImageRecord>> {
    let wanted = options.platform.clone().unwrap_or_else(platform::host);
    run(&Job { store, options, progress, wanted, heals: None }, source)
}

/// Imports the damaged parts of `images` again, and nothing else of `source`. An image of the source matches one of the
/// store when their configurations are equal. No image is added or removed, no name moves.
///
/// # Errors
/// Those of [`import`].
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
        Source::Dir(layout) => import_layout(job, &layout),
        Source::Stream(stream) => archive::import(job, stream),
    }
    .map_err(|error| name_full_disk(error, job.store))
}

fn import_layout(job: &Job<'_>, layout: &Layout) -> Result<Vec<ImageRecord>> {
    let label = names::label_of(layout.path());
    let choice = job.choice(label.as_deref());
    let doing = || format!("import {}", layout.path().display());
    let selected =
        resolve::select(&layout.index()?, layout, &choice, job.progress).map_err(|e| e.doing(doing()))?;
    let selected = job.named(selected)?;
    if let Some(known) = job.known(&selected)? {
        return Ok(known);
    }
    // A concurrent import of the same image does the work for this one.
    let _claim = selected.first().map(|first| job.store.claim(&first.manifest)).transpose()?;
    if let Some(known) = job.known(&selected)? {
        return Ok(known);
    }
    let layers = job.begin()?;
    job.finish(layers, selected, layout).map_err(|e| e.doing(doing()))
}
