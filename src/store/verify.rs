//! `image verify`: checks that everything is as it was imported.
//!
//! A damaged layer is quarantined: marked in the journal, refused to new containers, and treated as absent by the next
//! import or pull, which replaces it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;

use rustix::fs::{CWD, Mode, OFlags};
use serde::Serialize;

use super::index::{self, Checked, Depth, Flaw};
use super::journal::{Journal, Update};
use super::layers::LayerStore;
use super::record::{Event, ImageRecord, LayerId, LayerRecord};
use super::{Contents, Step, Store};
use crate::digest::Digest;
use crate::error::{Doing, Kind, Result, is_shortage};

/// A difference from the imported state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The names of the affected images, or their ids; empty when no image is affected.
    pub images: Vec<String>,
    /// The diffID of the affected layer, if it is in one.
    pub layer: Option<Digest>,
    /// The path in the layer, or below the store's root.
    pub path: String,
    /// The difference.
    pub what: String,
}

/// The summary of a verification.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Images verified.
    pub images: u64,
    /// Layers verified, each once.
    pub layers: u64,
    /// Paths in these layers.
    pub paths: u64,
    /// Differences found.
    pub findings: u64,
    /// Layers with one or more of them.
    pub damaged_layers: u64,
}

/// Verifies `images` and the journal; calls `each` for every finding.
pub(super) fn verify(
    store: &Store,
    images: &[ImageRecord],
    each: &mut dyn FnMut(&Finding),
) -> Result<Summary> {
    let mut verdict = Summary { images: images.len() as u64, ..Summary::default() };
    let mut tell = |finding: Finding, verdict: &mut Summary| {
        verdict.findings += 1;
        each(&finding);
    };
    for finding in journal(store)? {
        tell(finding, &mut verdict);
    }
    // The transaction keeps these layers from being removed meanwhile. A store on a read-only medium cannot change.
    let txn = match store.begin() {
        Err(error) if error.kind() == Kind::Denied => None,
        other => Some(other?),
    };
    let mut users: BTreeMap<LayerId, (LayerRecord, Vec<String>)> = BTreeMap::new();
    for image in images {
        for finding in documents(store, image)? {
            tell(finding, &mut verdict);
        }
        for layer in store.layers(image)? {
            let names = shown(image);
            users.entry(layer.id).or_insert_with(|| (layer, Vec::new())).1.extend(names);
        }
    }
    let (mut damaged, mut sound) = (Vec::new(), Vec::new());
    for (layer, images) in users.into_values() {
        if txn.as_ref().is_some_and(|txn| !txn.keep_unchecked(layer.id).unwrap_or(false)) {
            continue;
        }
        let mut is_sound = true;
        let checked = one(store, &layer, Depth::Content, &mut |flaw| {
            is_sound = false;
            let (images, path) = (images.clone(), flaw.path.escape_ascii().to_string());
            tell(Finding { images, layer: Some(layer.diff_id), path, what: flaw.what }, &mut verdict);
        })?;
        verdict.layers += 1;
        verdict.paths += checked.paths;
        verdict.damaged_layers += u64::from(!is_sound);
        match (is_sound, layer.damaged) {
            (true, true) => sound.push(layer.id),
            (false, false) => damaged.push(layer.id),
            _ => {}
        }
    }
    if txn.is_some() {
        mark(store, damaged, sound)?;
    }
    Ok(verdict)
}

/// Compares one layer with its record.
fn one(store: &Store, layer: &LayerRecord, depth: Depth, flaw: &mut dyn FnMut(Flaw)) -> Result<Checked> {
    let path = store.layers.index(layer.id);
    let root = store.layers.lower(layer.id);
    let doing = || format!("verify layer {}", layer.diff_id);
    let of = |what: String, name: &str| Flaw { path: name.as_bytes().to_vec(), what };
    let open = || -> std::io::Result<[File; 2]> { Ok([File::open(&path)?, File::open(&path)?]) };
    let files = match open() {
        Ok(files) => files,
        // A shortage on this machine does not mean that the layer is damaged.
        Err(error) if error.raw_os_error().is_some_and(is_shortage) => return Err(error).doing(doing),
        Err(error) => {
            flaw(of(format!("the record of the layer is missing: {error}"), index::NAME));
            return Ok(Checked::default());
        }
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = match rustix::fs::openat(CWD, &root, flags, Mode::empty()) {
        Ok(root) => root,
        Err(errno) if is_shortage(errno.raw_os_error()) => return Err(errno).doing(doing),
        Err(errno) => {
            flaw(of(format!("the layer's directory is missing: {errno}"), ""));
            return Ok(Checked::default());
        }
    };
    match index::check(files, root.as_fd(), depth, flaw) {
        Ok(checked) if checked.diff_id != Some(layer.diff_id) => {
            flaw(of("it is the record of another layer".to_owned(), index::NAME));
            Ok(checked)
        }
        Err(error) if error.kind() == Kind::Corrupt => {
            flaw(of(error.chain(), index::NAME));
            Ok(Checked::default())
        }
        other => other.doing(doing),
    }
}

/// Verifies the manifest and the configuration of an image.
fn documents(store: &Store, image: &ImageRecord) -> Result<Vec<Finding>> {
    let mut found = Vec::new();
    for digest in [image.manifest, image.id] {
        match store.blob(&digest) {
            Ok(_) => {}
            Err(error) if error.is_shortage() => return Err(error),
            Err(error) if matches!(error.kind(), Kind::Corrupt | Kind::NotFound | Kind::System) => {
                let path = format!("blobs/sha256/{}", digest.hex());
                found.push(Finding { images: shown(image), layer: None, path, what: error.chain() });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Returns whether the journal has lost a record, and whether any of it is damaged. It is read again, because it may
/// have been damaged since this process read it.
pub(super) fn state_of_journal(store: &Store, now: &Contents) -> Result<(bool, bool)> {
    let mut journal = Journal::new(store.path("journal"));
    let (Update::Replaced(scan) | Update::Appended(scan)) = journal.refresh()?;
    Ok((now.damaged || scan.lost, scan.flawed || journal.has_tail()?))
}

fn journal(store: &Store) -> Result<Vec<Finding>> {
    let what = match state_of_journal(store, &*store.refresh()?)? {
        (true, _) => "a record is lost, with its images; the others are intact",
        (false, true) => "one of the two copies of a record is damaged",
        (false, false) => return Ok(Vec::new()),
    };
    let (images, path) = (Vec::new(), "journal".to_owned());
    Ok(vec![Finding { images, layer: None, path, what: what.to_owned() }])
}

fn shown(image: &ImageRecord) -> Vec<String> {
    if image.names.is_empty() { vec![image.id.to_string()] } else { image.names.clone() }
}

/// Writes the result to the journal, for layers that still exist.
fn mark(store: &Store, damaged: Vec<LayerId>, sound: Vec<LayerId>) -> Result<()> {
    if damaged.is_empty() && sound.is_empty() {
        return Ok(());
    }
    let (_locked, mut now) = store.write()?;
    now.commit(Event::Looked { damaged, sound })?;
    drop(now);
    store.step(Step::Marked);
    Ok(())
}

/// Checks once, by types and sizes only, the layers imported during an earlier boot: a device may have reported writes
/// as durable before the power was lost. The caller has the right to write the journal.
pub(super) fn after_boot(store: &Store, now: &mut super::Now<'_>) -> Result<()> {
    let boot = super::boot::id();
    let touched: Vec<LayerRecord> = now
        .layers
        .values()
        .filter(|layer| layer.boot.as_ref().is_some_and(|of| *of != boot))
        .cloned()
        .collect();
    if touched.is_empty() {
        return Ok(());
    }
    let mut bad = BTreeSet::new();
    for layer in &touched {
        one(store, layer, Depth::Sizes, &mut |_| bad.extend([layer.id]))?;
    }
    let (damaged, sound) = touched.iter().map(|layer| layer.id).partition(|id| bad.contains(id));
    now.commit(Event::Looked { damaged, sound })
}
