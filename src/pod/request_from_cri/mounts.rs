//! Volumes from the host and from images.

use std::path::{Component, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use super::absolute;
use coracle_cri::v1;

use crate::error::{Error, Result};
use crate::spec::request::{MountRequest, MountSource, Propagation};

/// All mounts, parents before children.
pub(super) fn all(mounts: &[v1::Mount]) -> Result<Vec<MountRequest>> {
    let mut all = mounts.iter().map(request).collect::<Result<Vec<_>>>()?;
    all.sort_by_key(|m| m.destination.components().count());
    Ok(all)
}

/// Which mounts are read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadOnly {
    /// None.
    No,
    /// The mount itself, but not those below it.
    Yes,
    /// The mount and all those below it.
    Recursive,
}

fn request(mount: &v1::Mount) -> Result<MountRequest> {
    let refuse = |why: &str| Err(Error::invalid(format!("mount at {:?}: {why}", mount.container_path)));
    let root_propagation = match v1::MountPropagation::try_from(mount.propagation) {
        Ok(v1::MountPropagation::PropagationPrivate) => None,
        Ok(v1::MountPropagation::PropagationHostToContainer) => Some(Propagation::Slave),
        Ok(v1::MountPropagation::PropagationBidirectional) => Some(Propagation::Shared),
        Err(_) => return refuse("there is no such propagation"),
    };
    let read_only = match (mount.readonly, mount.recursive_read_only) {
        (false, false) => ReadOnly::No,
        (true, false) => ReadOnly::Yes,
        (true, true) if root_propagation.is_none() => ReadOnly::Recursive,
        (true, true) => return refuse("recursive_read_only goes with private propagation only"),
        (false, true) => return refuse("recursive_read_only without readonly"),
    };
    let field = format!("mount at {:?}", mount.container_path);
    let uids = mount.uid_mappings.iter().map(|m| id_mapping(&field, m)).collect::<Result<Vec<_>>>()?;
    let gids = mount.gid_mappings.iter().map(|m| id_mapping(&field, m)).collect::<Result<Vec<_>>>()?;
    if uids.is_empty() != gids.is_empty() {
        return refuse("uidMappings and gidMappings go together");
    }
    Ok(MountRequest {
        source: source(mount, read_only)?,
        destination: absolute("container_path", &mount.container_path)?,
        options: options(root_propagation, read_only, !uids.is_empty()),
        root_propagation,
        uids,
        gids,
    })
}

fn options(propagation: Option<Propagation>, read_only: ReadOnly, is_mapped: bool) -> Vec<String> {
    let propagation = match propagation {
        None => "rprivate",
        Some(Propagation::Slave) => "rslave",
        Some(Propagation::Shared) => "rshared",
    };
    let access: &[&str] = match read_only {
        ReadOnly::No => &["rw"],
        ReadOnly::Yes => &["ro"],
        ReadOnly::Recursive => &["ro", "rro"],
    };
    let mapped: &[&str] = if is_mapped { &["idmap"] } else { &[] };
    let all = [&["rbind", propagation], access, mapped].concat();
    all.into_iter().map(str::to_owned).collect()
}

fn source(mount: &v1::Mount, read_only: ReadOnly) -> Result<MountSource> {
    let refuse = |why: &str| Err(Error::invalid(format!("mount at {:?}: {why}", mount.container_path)));
    match &mount.image {
        None if !mount.image_sub_path.is_empty() => refuse("image_sub_path without image"),
        None if mount.host_path.is_empty() => refuse("neither host_path nor image is set"),
        None => Ok(MountSource::Host(absolute("host_path", &mount.host_path)?)),
        Some(_) if !mount.host_path.is_empty() => refuse("host_path and image are both set"),
        Some(image) if image.image.is_empty() => refuse("the image has no name"),
        Some(_) if read_only == ReadOnly::No => refuse("an image is mounted read-only: set readonly"),
        Some(image) => {
            let sub_path = PathBuf::from(&mount.image_sub_path);
            let stays_inside =
                sub_path.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
            if !stays_inside || mount.image_sub_path.contains('\0') {
                return refuse("image_sub_path does not stay in the image");
            }
            Ok(MountSource::Image { image: image.image.clone(), sub_path })
        }
    }
}

/// An ID mapping in the OCI form.
pub(super) fn id_mapping(field: &str, range: &v1::IdMapping) -> Result<LinuxIdMapping> {
    // The largest 32-bit number is not a valid id, so a range ends before it.
    let ends = |first: u32| first.checked_add(range.length).is_some();
    if range.length == 0 || !ends(range.host_id) || !ends(range.container_id) {
        return Err(Error::invalid(format!(
            "{field}: {} ids from {} inside and {} outside is no range",
            range.length, range.container_id, range.host_id
        )));
    }
    LinuxIdMappingBuilder::default()
        .host_id(range.host_id)
        .container_id(range.container_id)
        .size(range.length)
        .build()
        .map_err(|e| Error::invalid(format!("{field}: a range of ids")).because(e))
}
