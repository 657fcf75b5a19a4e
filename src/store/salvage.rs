//! Rebuilds the records of images that the journal has lost, from their layers and documents.
//!
//! A layer's `files.idx` gives its diffID, and a configuration lists the diffIDs of its image. Names are only in the
//! journal, so these images come back without any.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::{SystemTime, UNIX_EPOCH};

use oci_spec::image::ImageManifest;

use crate::digest::Digest;
use crate::error::{Error, Result};

use super::index::{Reader, Record};
use super::layers::LayerStore;
use super::record::{Event, ImageRecord, LayerId, LayerRecord, Platform, chain_id};
use super::{Contents, Store, image_config, lost};

/// A layer on disk without a record.
struct Found {
    record: LayerRecord,
    /// It may have inherited attributes of directories, so it is usable in one chain only.
    may_lean: bool,
}

/// The documents of an image without a record.
struct Documents {
    manifest: Digest,
    id: Digest,
    diff_ids: Vec<Digest>,
    /// The compressed blobs of the layers, in the same order.
    blobs: Vec<Digest>,
    platform: Platform,
}

/// Adds to `contents` the images that can be rebuilt, and returns their manifests. All other layers on disk are noted as
/// lost. The caller has the right to write the journal.
pub(super) fn salvage(store: &Store, contents: &mut Contents) -> Result<Vec<Digest>> {
    let present: BTreeSet<LayerId> = store.layers.present()?.into_iter().collect();
    let mut found: BTreeMap<Digest, Vec<Found>> = BTreeMap::new();
    for id in present.iter().filter(|id| !contents.layers.contains_key(id)) {
        if let Some(layer) = layer(store, *id)? {
            found.entry(layer.record.diff_id).or_default().push(layer);
        }
    }
    let mut rebuilt = Vec::new();
    for path in lost::list(&store.path("blobs/sha256"))? {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Ok(manifest) = Digest::parse(&format!("sha256:{name}")) else { continue };
        if contents.images.contains_key(&manifest) {
            continue;
        }
        if let Some(documents) = documents(store, manifest)?
            && let Some(event) = commit(contents, &found, &documents)
        {
            contents.apply(event);
            rebuilt.push(manifest);
        }
    }
    let next = present.last().map_or(0, |last| last.0.saturating_add(1));
    contents.next_layer = contents.next_layer.max(next);
    contents.lost = present.into_iter().filter(|id| !contents.layers.contains_key(id)).collect();
    Ok(rebuilt)
}

/// The record of layer `id` from its `files.idx`; `None` when that is damaged.
fn layer(store: &Store, id: LayerId) -> Result<Option<Found>> {
    let Ok(file) = File::open(store.layers.index(id)) else { return Ok(None) };
    let mut reader = Reader::new(file);
    let (mut end, mut may_lean, mut hides) = (None, false, false);
    let (mut size_bytes, mut entries) = (0u64, 0u64);
    loop {
        match unless_damaged(reader.next())? {
            None => return Ok(None),
            Some(None) => break,
            Some(Some(Record::End { diff_id, .. })) => end = Some(diff_id),
            Some(Some(Record::Dir { path, attributes, opaque })) => {
                entries +=
                    u64::from(attributes.is_some() && end.is_none() && !path.is_empty()) + u64::from(opaque);
                may_lean |= attributes.is_none() || end.is_some();
                hides |= opaque && path.is_empty();
            }
            Some(Some(Record::File { size, .. })) => {
                entries += 1;
                size_bytes = size_bytes.saturating_add(size);
            }
            Some(Some(Record::Raw(_) | Record::Gone { .. })) => {}
            Some(Some(_)) => entries += 1,
        }
    }
    let record = |diff_id| LayerRecord {
        id,
        diff_id,
        chain: None,
        hides_all_lower: hides,
        size_bytes,
        entries,
        blobs: Vec::new(),
        damaged: false,
        boot: Some(super::boot::id()),
    };
    Ok(end.map(|diff_id| Found { record: record(diff_id), may_lean: may_lean && !hides }))
}

/// Reads `manifest` and its configuration; `None` when it is no manifest or either of them is damaged.
fn documents(store: &Store, manifest: Digest) -> Result<Option<Documents>> {
    let Some(bytes) = unless_damaged(store.blob(&manifest))? else { return Ok(None) };
    let Ok(parsed) = serde_json::from_slice::<ImageManifest>(&bytes) else { return Ok(None) };
    let Ok(id) = Digest::parse(parsed.config().digest().as_ref()) else { return Ok(None) };
    let Some(bytes) = unless_damaged(store.blob(&id))? else { return Ok(None) };
    let Ok(config) = image_config(&bytes) else { return Ok(None) };
    let diff_ids: Result<Vec<Digest>> =
        config.rootfs().diff_ids().iter().map(|id| Digest::parse(id)).collect();
    let blobs: Result<Vec<Digest>> =
        parsed.layers().iter().map(|layer| Digest::parse(layer.digest().as_ref())).collect();
    let platform = Platform {
        os: config.os().to_string(),
        architecture: config.architecture().to_string(),
        variant: config.variant().clone().filter(|variant| !variant.is_empty()),
    };
    let (Ok(diff_ids), Ok(blobs)) = (diff_ids, blobs) else { return Ok(None) };
    Ok(Some(Documents { manifest, id, diff_ids, blobs, platform }))
}

/// The commit of the image, if each of its layers is known or was found.
fn commit(contents: &Contents, found: &BTreeMap<Digest, Vec<Found>>, image: &Documents) -> Option<Event> {
    if image.diff_ids.is_empty() {
        return None;
    }
    let (mut all, mut new): (Vec<LayerRecord>, Vec<LayerRecord>) = (Vec::new(), Vec::new());
    let mut below = None;
    for diff_id in &image.diff_ids {
        let chain = chain_id(below.as_ref(), diff_id);
        let known = contents.layer_for(diff_id, &chain);
        let record = match known.or_else(|| new.iter().find(|layer| layer.fits(diff_id, &chain))) {
            Some(known) => known.clone(),
            None => {
                let fresh = only(contents, found.get(diff_id)?, chain)?;
                new.push(fresh.clone());
                fresh
            }
        };
        all.push(record);
        below = Some(chain);
    }
    let blobs = match image.blobs.len() == all.len() {
        true => image.blobs.iter().copied().zip(all.iter().map(|layer| layer.id)).collect(),
        false => Vec::new(),
    };
    let record = ImageRecord {
        id: image.id,
        manifest: image.manifest,
        names: Vec::new(),
        repo_digests: Vec::new(),
        platform: image.platform.clone(),
        others: Vec::new(),
        size_bytes: all.iter().map(|layer| layer.size_bytes).sum(),
        hidden: all.iter().rposition(|layer| layer.hides_all_lower).unwrap_or(0),
        layers: all.iter().map(|layer| layer.id).collect(),
        imported_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
    };
    Some(Event::Commit { layers: new, images: vec![record], blobs })
}

/// The one layer among `found` that can be meant in `chain`. Where several have the diffID, each was made for another
/// chain, and nothing says which.
fn only(contents: &Contents, found: &[Found], chain: Digest) -> Option<LayerRecord> {
    let [one] = found else { return None };
    if contents.layers.contains_key(&one.record.id) {
        return None;
    }
    Some(LayerRecord { chain: one.may_lean.then_some(chain), ..one.record.clone() })
}

/// `None` for data that is damaged or missing; a shortage on this machine stays an error.
fn unless_damaged<T>(read: Result<T, Error>) -> Result<Option<T>> {
    match read {
        Ok(data) => Ok(Some(data)),
        Err(error) if error.is_shortage() => Err(error),
        Err(_) => Ok(None),
    }
}
