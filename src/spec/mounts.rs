//! The mounts of a container: the defaults, the runtime's files, and the requested ones.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::defaults;
use super::request::{ContainerRequest, MountRequest, MountSource, Propagation};
use crate::error::{Error, Kind, Result};

/// A mount of the runtime specification.
pub fn mount(
    destination: impl Into<PathBuf>,
    kind: &str,
    source: impl Into<PathBuf>,
    options: &[&str],
) -> Mount {
    let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source.into()))
        .set_options((!options.is_empty()).then_some(options));
    mount
}

/// All mounts in order: the defaults, `files`, the requested ones with their `sources`. A later mount replaces an
/// earlier one at the same destination.
///
/// # Errors
/// `Bug` when a requested mount has no source.
pub(super) fn all(request: &ContainerRequest, files: &[Mount], sources: &[PathBuf]) -> Result<Vec<Mount>> {
    if sources.len() != request.mounts.len() {
        let (found, asked) = (sources.len(), request.mounts.len());
        return Err(Error::new(Kind::Bug, format!("{found} sources for {asked} mounts")));
    }
    let shm_size = request.shm_size.unwrap_or(defaults::SHM_SIZE);
    let mut mounts = defaults::mounts(shm_size, request.bind_sys, request.privileged);
    mounts.retain(|own| !files.iter().any(|file| file.destination() == own.destination()));
    mounts.extend(files.iter().cloned());
    mounts.retain(|own| !is_covered(request, own.destination()));
    mounts.extend(request.mounts.iter().zip(sources).map(|(mount, source)| mount.resolve(source)));
    Ok(mounts)
}

/// Whether the request has a mount at this path.
pub fn is_covered(request: &ContainerRequest, path: &Path) -> bool {
    request.mounts.iter().any(|mount| mount.destination == path)
}

impl MountRequest {
    /// Converts to a mount of the runtime specification, with the source found on the host.
    fn resolve(&self, source: &Path) -> Mount {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let kind = match self.source {
            MountSource::Host(_) | MountSource::Image { .. } => "bind",
            MountSource::Tmpfs => "tmpfs",
        };
        let mut mount = mount(&self.destination, kind, source, &options);
        if !self.uids.is_empty() {
            mount.set_uid_mappings(Some(self.uids.clone())).set_gid_mappings(Some(self.gids.clone()));
        }
        mount
    }
}

/// The root propagation that the mounts need.
pub(super) fn root_propagation(request: &ContainerRequest) -> Option<String> {
    let most = request.mounts.iter().filter_map(|mount| mount.root_propagation).max()?;
    let option = match most {
        Propagation::Slave => "rslave",
        Propagation::Shared => "rshared",
    };
    Some(option.to_owned())
}
