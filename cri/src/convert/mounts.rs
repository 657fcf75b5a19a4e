//! Volumes: from the host, and from images.

use std::path::{Component, Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};

use super::absolute;
use crate::error::{Error, Result};
use crate::v1;

/// A volume of a container.
#[derive(Debug, Clone, PartialEq)]
pub struct MountWish {
    /// What is mounted.
    pub source: Source,
    /// Where, inside.
    pub destination: PathBuf,
    /// Whether it can be written to.
    pub read_only: ReadOnly,
    /// Whether mounts made later are seen on the other side.
    pub propagation: Propagation,
    /// Whether the files get the container's SELinux label.
    pub relabel: bool,
    /// Owners are shown through these; empty for none, and as many as `gids` otherwise.
    pub uids: Vec<LinuxIdMapping>,
    /// Groups are shown through these.
    pub gids: Vec<LinuxIdMapping>,
}

/// What a volume shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A path of the host; links in it are followed.
    Host(PathBuf),
    /// An image, or a directory or file in one.
    Image {
        /// As kubelet was told when it was pulled.
        image: v1::ImageSpec,
        /// Relative, without `..`; empty for all of it.
        sub_path: PathBuf,
    },
}

/// How far a mount is read-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadOnly {
    /// It can be written to.
    No,
    /// The mount itself cannot; mounts below it can.
    Yes,
    /// Neither it nor what is mounted below.
    Recursive,
}

/// mount_namespaces(7), for the mount and all below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// `rprivate`
    Private,
    /// `rslave`: the host's mounts come in.
    FromHost,
    /// `rshared`: and the container's go out.
    Both,
}

impl MountWish {
    /// The mount of the runtime specification, for the source found on the host.
    pub fn mount(&self, source: &Path) -> Mount {
        let mut options = vec!["rbind"];
        options.push(match self.propagation {
            Propagation::Private => "rprivate",
            Propagation::FromHost => "rslave",
            Propagation::Both => "rshared",
        });
        match self.read_only {
            ReadOnly::No => options.push("rw"),
            ReadOnly::Yes => options.push("ro"),
            ReadOnly::Recursive => options.extend(["ro", "rro"]),
        }
        let mut mount = Mount::default();
        if !self.uids.is_empty() {
            options.push("idmap");
            mount.set_uid_mappings(Some(self.uids.clone())).set_gid_mappings(Some(self.gids.clone()));
        }
        mount
            .set_destination(self.destination.clone())
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(source.to_owned()))
            .set_options(Some(options.into_iter().map(str::to_owned).collect()));
        mount
    }
}

/// All mounts, parents before what lies below them.
pub(super) fn all(mounts: &[v1::Mount]) -> Result<Vec<MountWish>> {
    let mut all = mounts.iter().map(wish).collect::<Result<Vec<_>>>()?;
    all.sort_by_key(|m| m.destination.components().count());
    Ok(all)
}

fn wish(mount: &v1::Mount) -> Result<MountWish> {
    let refuse = |why: &str| Err(Error::invalid(format!("mount at {:?}: {why}", mount.container_path)));
    let propagation = match v1::MountPropagation::try_from(mount.propagation) {
        Ok(v1::MountPropagation::PropagationPrivate) => Propagation::Private,
        Ok(v1::MountPropagation::PropagationHostToContainer) => Propagation::FromHost,
        Ok(v1::MountPropagation::PropagationBidirectional) => Propagation::Both,
        Err(_) => return refuse("there is no such propagation"),
    };
    let read_only = match (mount.readonly, mount.recursive_read_only) {
        (false, false) => ReadOnly::No,
        (true, false) => ReadOnly::Yes,
        (true, true) if propagation == Propagation::Private => ReadOnly::Recursive,
        (true, true) => return refuse("recursive_read_only goes with private propagation only"),
        (false, true) => return refuse("recursive_read_only without readonly"),
    };
    let field = format!("mount at {:?}", mount.container_path);
    let uids = mount.uid_mappings.iter().map(|m| id_mapping(&field, m)).collect::<Result<Vec<_>>>()?;
    let gids = mount.gid_mappings.iter().map(|m| id_mapping(&field, m)).collect::<Result<Vec<_>>>()?;
    if uids.is_empty() != gids.is_empty() {
        return refuse("uidMappings and gidMappings go together");
    }
    Ok(MountWish {
        source: source(mount, read_only)?,
        destination: absolute("container_path", &mount.container_path)?,
        read_only,
        propagation,
        relabel: mount.selinux_relabel,
        uids,
        gids,
    })
}

fn source(mount: &v1::Mount, read_only: ReadOnly) -> Result<Source> {
    let refuse = |why: &str| Err(Error::invalid(format!("mount at {:?}: {why}", mount.container_path)));
    match &mount.image {
        None if !mount.image_sub_path.is_empty() => refuse("image_sub_path without image"),
        None if mount.host_path.is_empty() => refuse("neither host_path nor image is set"),
        None => Ok(Source::Host(absolute("host_path", &mount.host_path)?)),
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
            Ok(Source::Image { image: image.clone(), sub_path })
        }
    }
}

/// A range of ids in the specification's terms.
pub(super) fn id_mapping(field: &str, range: &v1::IdMapping) -> Result<LinuxIdMapping> {
    // The largest number is no id, so a range ends before it.
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
        .map_err(|e| Error::invalid(format!("{field}: {e}")))
}
