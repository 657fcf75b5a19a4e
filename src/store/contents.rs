//! The contents of the store, replayed from the journal.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::Digest;

use super::record::{Event, ImageRecord, LayerId, LayerRecord};

/// The sum of all events so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Contents {
    /// Images by manifest digest.
    pub(crate) images: BTreeMap<Digest, ImageRecord>,
    pub(crate) layers: BTreeMap<LayerId, LayerRecord>,
    /// The number of the next layer.
    pub(crate) next_layer: u64,
    /// A record could not be read or contradicts the others, so nothing may be swept because no record names it.
    pub(crate) damaged: bool,
    /// Layers on disk whose records are lost; only [`Store::gc`](super::Store::gc) deletes them.
    pub(crate) lost: BTreeSet<LayerId>,
}

impl Contents {
    /// Applies one record of the journal.
    pub(crate) fn replay(&mut self, payload: &[u8]) {
        match serde_json::from_slice(payload) {
            Ok(event) => self.apply(event),
            Err(_) => self.damaged = true,
        }
    }

    /// Applies one event.
    pub(crate) fn apply(&mut self, event: Event) {
        match event {
            Event::Snapshot { next_layer, layers, images, lost } => {
                let lost = lost.into_iter().collect();
                *self = Self { next_layer, lost, damaged: self.damaged, ..Self::default() };
                self.add(layers, images);
            }
            Event::Commit { layers, images, blobs } => {
                self.add(layers, images);
                for (blob, layer) in blobs {
                    self.note_blob(blob, layer);
                }
            }
            Event::Looked { damaged, sound } => {
                for (ids, is_damaged) in [(damaged, true), (sound, false)] {
                    for id in ids {
                        if let Some(layer) = self.layers.get_mut(&id) {
                            (layer.damaged, layer.boot) = (is_damaged, None);
                        }
                    }
                }
            }
            Event::Lost { layers } => {
                self.damaged = true;
                for layer in layers {
                    self.next_layer = self.next_layer.max(layer.0.saturating_add(1));
                    self.lost.insert(layer);
                }
            }
            Event::Remove { names, images, layers } => {
                for name in &names {
                    self.untag(name);
                }
                for manifest in &images {
                    self.images.remove(manifest);
                }
                for layer in &layers {
                    self.layers.remove(layer);
                    self.lost.remove(layer);
                }
            }
        }
    }

    fn add(&mut self, layers: Vec<LayerRecord>, images: Vec<ImageRecord>) {
        for layer in layers {
            self.next_layer = self.next_layer.max(layer.id.0.saturating_add(1));
            self.heal(&layer);
            self.layers.insert(layer.id, layer);
        }
        for mut image in images {
            if image.layers.iter().any(|layer| !self.layers.contains_key(layer)) {
                self.damaged = true;
                continue;
            }
            for name in &image.names {
                self.untag(name);
            }
            if let Some(known) = self.images.get(&image.manifest) {
                image.names.extend(known.names.iter().cloned());
                image.repo_digests.extend(known.repo_digests.iter().cloned());
                if image.others.is_empty() {
                    image.others.clone_from(&known.others);
                }
            }
            image.repo_digests.sort();
            image.repo_digests.dedup();
            image.names.sort();
            image.names.dedup();
            self.images.insert(image.manifest, image);
        }
    }

    /// Replaces a damaged layer by a newly imported one, in every image.
    fn heal(&mut self, fresh: &LayerRecord) {
        let is_same = |old: &&LayerRecord| {
            old.damaged && old.diff_id == fresh.diff_id && old.chain == fresh.chain && !fresh.damaged
        };
        let replaced: BTreeSet<LayerId> = self.layers.values().filter(is_same).map(|old| old.id).collect();
        for layer in self.images.values_mut().flat_map(|image| &mut image.layers) {
            if replaced.contains(layer) {
                *layer = fresh.id;
            }
        }
    }

    fn note_blob(&mut self, blob: Digest, layer: LayerId) {
        if let Some(layer) = self.layers.get_mut(&layer)
            && !layer.blobs.contains(&blob)
        {
            layer.blobs.push(blob);
        }
    }

    fn untag(&mut self, name: &str) {
        for image in self.images.values_mut() {
            image.names.retain(|own| own != name);
        }
    }

    /// The layer with this diffID that is usable where the chain is `chain`.
    pub(crate) fn layer_for(&self, diff_id: &Digest, chain: &Digest) -> Option<&LayerRecord> {
        self.layers.values().find(|layer| layer.fits(diff_id, chain))
    }

    /// Layers of no image except those in `without`.
    pub(crate) fn unused_layers(&self, without: &BTreeSet<Digest>) -> BTreeSet<LayerId> {
        let used: BTreeSet<LayerId> = self
            .images
            .values()
            .filter(|image| !without.contains(&image.manifest))
            .flat_map(|image| image.layers.iter().copied())
            .collect();
        self.layers.keys().copied().filter(|layer| !used.contains(layer)).collect()
    }

    /// The whole contents as one event.
    pub(crate) fn snapshot(&self) -> Event {
        Event::Snapshot {
            next_layer: self.next_layer,
            layers: self.layers.values().cloned().collect(),
            images: self.images.values().cloned().collect(),
            lost: self.lost.iter().copied().collect(),
        }
    }
}
