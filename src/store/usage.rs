//! `image df`: disk usage of the store.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use super::record::{ImageRecord, LayerId};
use super::{Store, hold};
use crate::digest::Digest;
use crate::error::{Doing, Result};

/// The number and size of one kind of object. Sizes are bytes of file data, unpacked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Amount {
    /// The number of objects.
    pub total: u64,
    /// How many of them containers use.
    pub active: u64,
    /// Their size in bytes.
    pub size: u64,
    /// The size of the unused ones in bytes.
    pub reclaimable: u64,
}

/// The space of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ImageUsage {
    /// The image.
    #[serde(flatten)]
    pub image: ImageRecord,
    /// Bytes of layers that other images share.
    pub shared: u64,
    /// Bytes of layers that only this image has: removing it frees them.
    pub unique: u64,
    /// The number of containers that use it.
    pub containers: u64,
}

/// The space of a store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Images; their size counts each layer once.
    pub images: Amount,
    /// Layers of two or more images.
    pub shared: Amount,
    /// Layers without an image: damaged ones that were replaced.
    pub orphans: Amount,
    /// Downloads that can be resumed.
    pub partial: Amount,
    /// Unfinished transactions and the trash.
    pub waste: Amount,
    /// Free bytes on the file system of the store.
    pub free: u64,
    /// The usage of every image.
    pub by_image: Vec<ImageUsage>,
}

/// Adds up what the store holds.
pub(super) fn usage(store: &Store) -> Result<Usage> {
    let images = store.images()?;
    let sizes: BTreeMap<LayerId, u64> =
        store.refresh()?.layers.values().map(|layer| (layer.id, layer.size_bytes)).collect();
    let size = |layer: &LayerId| sizes.get(layer).copied().unwrap_or(0);
    let mut users: BTreeMap<LayerId, u64> = BTreeMap::new();
    for layer in images.iter().flat_map(|image| image.layers.iter().collect::<BTreeSet<_>>()) {
        *users.entry(*layer).or_default() += 1;
    }
    let mut holds: BTreeMap<Digest, u64> = BTreeMap::new();
    for (_, image) in hold::holders(store)? {
        *holds.entry(image).or_default() += 1;
    }
    let held: BTreeSet<LayerId> = images
        .iter()
        .filter(|image| holds.contains_key(&image.manifest))
        .flat_map(|image| image.layers.iter().copied())
        .collect();
    let of = |layers: Vec<LayerId>| Amount {
        total: layers.len() as u64,
        active: layers.iter().filter(|layer| held.contains(layer)).count() as u64,
        size: layers.iter().map(size).sum(),
        reclaimable: layers.iter().filter(|layer| !held.contains(layer)).map(size).sum(),
    };
    let all = of(users.keys().copied().collect());
    let by_image: Vec<ImageUsage> =
        images.into_iter().map(|image| one(image, &users, &holds, &size)).collect();
    let active = by_image.iter().filter(|image| image.containers > 0).count() as u64;
    Ok(Usage {
        images: Amount { total: by_image.len() as u64, active, ..all },
        shared: of(users.iter().filter(|(_, users)| **users > 1).map(|(layer, _)| *layer).collect()),
        orphans: of(sizes.keys().copied().filter(|layer| !users.contains_key(layer)).collect()),
        partial: on_disk(&[&store.path("partial")])?,
        waste: on_disk(&[&store.path("tmp"), &store.path("trash")])?,
        free: super::gc::free_bytes(store)?.bytes,
        by_image,
    })
}

fn one(
    image: ImageRecord,
    users: &BTreeMap<LayerId, u64>,
    holds: &BTreeMap<Digest, u64>,
    size: &dyn Fn(&LayerId) -> u64,
) -> ImageUsage {
    let layers: BTreeSet<LayerId> = image.layers.iter().copied().collect();
    let (shared, own): (Vec<_>, Vec<_>) =
        layers.into_iter().partition(|layer| users.get(layer).is_some_and(|users| *users > 1));
    let containers = holds.get(&image.manifest).copied().unwrap_or(0);
    ImageUsage {
        image,
        shared: shared.iter().map(size).sum(),
        unique: own.iter().map(size).sum(),
        containers,
    }
}

/// The number of entries directly in some directories, and the disk usage of everything below.
fn on_disk(roots: &[&Path]) -> Result<Amount> {
    let mut amount = Amount::default();
    // Files with several names, which have their space once.
    let mut linked = BTreeSet::new();
    for root in roots {
        let doing = || format!("list {}", root.display());
        let mut todo = vec![root.to_path_buf()];
        while let Some(dir) = todo.pop() {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = match rustix::fs::openat(CWD, &dir, flags, Mode::empty()) {
                // Another process has removed it.
                Err(Errno::NOENT) => continue,
                other => other.doing(doing)?,
            };
            for name in super::entry_names(fd.as_fd()).doing(doing)? {
                let Ok(stat) = rustix::fs::statat(&fd, &*name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                amount.total += u64::from(dir == **root);
                let is_dir = FileType::from_raw_mode(stat.st_mode).is_dir();
                if is_dir || stat.st_nlink < 2 || linked.insert((stat.st_dev, stat.st_ino)) {
                    amount.size += stat.st_blocks as u64 * 512;
                }
                if is_dir {
                    todo.push(dir.join(name));
                }
            }
        }
    }
    amount.reclaimable = amount.size;
    Ok(amount)
}
