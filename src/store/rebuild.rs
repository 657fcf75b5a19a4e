//! Rebuilds the tars of layers for `image export`.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;

use super::layers::LayerStore;
use super::record::LayerRecord;
use super::{Store, index};
use crate::error::{Doing, Error, Kind, Result};

pub(super) fn layer_tar(store: &Store, layer: &LayerRecord, out: &mut dyn Write) -> Result<()> {
    let path = store.layers.lower(layer.id);
    let root = File::open(&path).doing(|| format!("open {}", path.display()))?;
    let doing = || format!("rebuild the tar of layer {}", layer.diff_id);
    let digest = index::rebuild(record(store, layer)?, root.as_fd(), out).map_err(|e| e.doing(doing()))?;
    if digest == layer.diff_id {
        return Ok(());
    }
    Err(Error::new(Kind::Corrupt, format!("its record belongs to layer {digest}")).doing(doing()))
}

pub(super) fn layer_tar_bytes(store: &Store, layer: &LayerRecord) -> Result<u64> {
    if !index::is_whole(record(store, layer)?, record(store, layer)?)? {
        let doing = format!(
            "layer {} has members that replace others of it, so its tar cannot be rebuilt",
            layer.diff_id
        );
        return Err(Error::new(Kind::Unsupported, doing)
            .hint("copy the image from its registry, or build it without duplicate members"));
    }
    index::tar_bytes(record(store, layer)?)
}

fn record(store: &Store, layer: &LayerRecord) -> Result<File> {
    let path = store.layers.index(layer.id);
    File::open(&path).doing(|| format!("open {}", path.display()))
}
