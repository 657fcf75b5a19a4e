//! `image rm`: an image is removed with its last name, a layer with its last image.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::Digest;
use crate::error::{Error, Kind, Result};

use super::layers::LayerStore;
use super::lock::{How, lock};
use super::record::{Event, ImageRecord};
use super::{Cleared, Contents, Step, Store, find, hold, sweep};

/// One removed object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removed {
    /// A name; its image may have others.
    Name(String),
    /// An image, by its id.
    Image(Digest),
}

/// The names and images to remove.
#[derive(Debug, Default)]
struct Removal {
    names: BTreeSet<String>,
    images: BTreeMap<Digest, ImageRecord>,
}

pub(super) fn remove(store: &Store, names: &[String]) -> Result<Vec<Removed>> {
    // Locked before the store's lock, as everywhere: no container starts to use an image from here on.
    let _no_new_holds = lock(&store.path("containers"), How::Exclusive)?;
    let (locked, mut now) = store.write()?;
    let removal = select(&now, names)?;
    refuse_used(store, &removal)?;
    let cleared = &mut Cleared::default();
    let kept = sweep::sweep_transactions(store, &now, cleared)?;
    let gone: BTreeSet<Digest> = removal.images.keys().copied().collect();
    let layers: Vec<_> = now.unused_layers(&gone).into_iter().filter(|layer| !kept.contains(layer)).collect();
    let event = Event::Remove {
        names: removal.names.iter().cloned().collect(),
        images: gone.into_iter().collect(),
        layers: layers.clone(),
    };
    now.commit(event)?;
    store.step(Step::Removed);
    for layer in layers {
        store.layers.discard(layer)?;
    }
    if !now.damaged {
        sweep::sweep_blobs(store, &now, cleared)?;
    }
    drop(now);
    drop(locked);
    store.step(Step::Trashed);
    store.trash.empty()?;
    // Several manifests may have one configuration, and so one id.
    let ids: BTreeSet<Digest> = removal.images.into_values().map(|image| image.id).collect();
    let images = ids.into_iter().map(Removed::Image);
    Ok(removal.names.into_iter().map(Removed::Name).chain(images).collect())
}

/// The names and images that `names` mean.
fn select(now: &Contents, names: &[String]) -> Result<Removal> {
    let mut removal = Removal::default();
    for name in names {
        let image = find::find(&now.images, name)?;
        let meant = match find::name_of(&image, name) {
            Some(full) => {
                removal.names.insert(full);
                vec![image]
            }
            None => {
                let all = find::all_by_digest(&now.images, name);
                removal.names.extend(all.iter().flat_map(|image| image.names.iter().cloned()));
                all
            }
        };
        for image in meant {
            if image.names.iter().all(|own| removal.names.contains(own)) {
                removal.images.insert(image.manifest, image);
            }
        }
    }
    let others = others(now, &removal);
    removal.images.extend(others);
    Ok(removal)
}

/// The images for other platforms that are removed too, because none that shares their names is left.
fn others(now: &Contents, removal: &Removal) -> Vec<(Digest, ImageRecord)> {
    let stays = |image: &&ImageRecord| !removal.images.contains_key(&image.manifest);
    let kept: BTreeSet<&Digest> = now.images.values().filter(stays).flat_map(|image| &image.others).collect();
    let named = removal.images.values().flat_map(|image| &image.others).filter(|other| !kept.contains(other));
    let others = named.filter_map(|other| now.images.get(other).filter(|image| image.names.is_empty()));
    others.map(|image| (image.manifest, image.clone())).collect()
}

fn refuse_used(store: &Store, removal: &Removal) -> Result<()> {
    if removal.images.is_empty() {
        return Ok(());
    }
    match hold::holders(store)?.into_iter().find(|(_, held)| removal.images.contains_key(held)) {
        None => Ok(()),
        Some((container, held)) => {
            let name = removal.images.get(&held).and_then(|image| image.names.first().cloned());
            let name = name.unwrap_or_else(|| held.to_string());
            let is_in_pod = store.path("containers").join(&container).join(hold::POD_MARK).exists();
            let hint = match is_in_pod {
                true => format!("it belongs to a pod: remove the pod, or use crictl rm {container}"),
                false => format!("remove it first: coracle rm {container}"),
            };
            Err(Error::new(Kind::Busy, format!("image {name} is used by container {container}")).hint(hint))
        }
    }
}
