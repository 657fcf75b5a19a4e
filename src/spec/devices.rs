//! Finds the host's device nodes that a container gets.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{FileType, stat};

use super::request::{ContainerRequest, DeviceRequest};
use crate::error::{Doing, Error, Result};

/// The nodes that a request asks for, with their access. A privileged container gets all of the host's nodes; one it
/// requests explicitly takes precedence at its path.
///
/// # Errors
/// A device does not exist, or is another kind of file.
pub fn resolve(request: &ContainerRequest) -> Result<Vec<(LinuxDevice, String)>> {
    let mut all = if request.privileged { all_of_host()? } else { Vec::new() };
    for DeviceRequest { host, inside, access } in &request.devices {
        let found = below(host, inside)?;
        all.retain(|(known, _)| !found.iter().any(|node| node.path() == known.path()));
        all.extend(found.into_iter().map(|node| (node, access.clone())));
    }
    Ok(all)
}

fn node(host: &Path, inside: PathBuf) -> Result<LinuxDevice> {
    let stat = stat(host).doing(|| format!("find the device {}", host.display()))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => LinuxDeviceType::C,
        FileType::BlockDevice => LinuxDeviceType::B,
        _ => return Err(Error::invalid(format!("{} is not a device", host.display()))),
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(inside)
        .set_typ(kind)
        .set_major(rustix::fs::major(stat.st_rdev).into())
        .set_minor(rustix::fs::minor(stat.st_rdev).into())
        .set_file_mode(Some(stat.st_mode & 0o777))
        .set_uid(Some(stat.st_uid))
        .set_gid(Some(stat.st_gid));
    Ok(device)
}

/// The node at a host path, to appear at `inside`; or all nodes below a directory.
///
/// # Errors
/// `Invalid` for another kind of file; the path does not exist.
pub fn below(host: &Path, inside: &Path) -> Result<Vec<LinuxDevice>> {
    let doing = || format!("find the device {}", host.display());
    // A symbolic link is followed, and its name is kept inside.
    let found = std::fs::canonicalize(host).doing(doing)?;
    if !found.is_dir() {
        return Ok(vec![node(&found, inside.to_owned())?]);
    }
    let mut all = Vec::new();
    let mut directories = vec![found.clone()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).doing(doing)?.flatten() {
            let (path, kind) = (entry.path(), entry.file_type().doing(doing)?);
            let target = inside.join(path.strip_prefix(&found).unwrap_or(&path));
            if kind.is_dir() {
                directories.push(path);
            } else if let Ok(device) = node(&path, target) {
                all.push(device);
            }
        }
    }
    Ok(all)
}

/// All nodes of the host's /dev except symbolic links, terminals and the nodes each container has of its own.
///
/// # Errors
/// /dev cannot be read.
fn all_of_host() -> Result<Vec<(LinuxDevice, String)>> {
    const PRIVATE: [&str; 6] = ["pts", "shm", "mqueue", "fd", "console", "ptmx"];
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("/dev")];
    while let Some(directory) = directories.pop() {
        for entry in
            std::fs::read_dir(&directory).doing(|| format!("read {}", directory.display()))?.flatten()
        {
            let (path, name) = (entry.path(), entry.file_name());
            if PRIVATE.iter().any(|p| name == *p) {
                continue;
            }
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => directories.push(path),
                Ok(kind) if !kind.is_symlink() && !kind.is_file() => {
                    if let Ok(device) = node(&path, path.clone()) {
                        found.push((device, "rwm".to_owned()));
                    }
                }
                _ => {}
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(host: &str, inside: &str) -> Result<Vec<(LinuxDevice, String)>> {
        let device = DeviceRequest { host: host.into(), inside: inside.into(), access: "r".to_owned() };
        resolve(&ContainerRequest { devices: vec![device], ..ContainerRequest::default() })
    }

    #[test]
    fn devices_are_found_on_the_host() {
        let all = resolved("/dev/null", "/dev/nothing").unwrap();
        let [(device, access)] = &all[..] else { panic!("{all:?}") };
        assert_eq!((device.major(), device.minor(), access.as_str()), (1, 3, "r"));
        assert_eq!(device.path(), Path::new("/dev/nothing"));
        for bad in ["/etc/passwd", "/dev/no-such"] {
            assert!(resolved(bad, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_a_privileged_container_asks_for_takes_the_place_of_the_hosts() {
        let device =
            DeviceRequest { host: "/dev/zero".into(), inside: "/dev/null".into(), access: "r".to_owned() };
        let request =
            ContainerRequest { privileged: true, devices: vec![device], ..ContainerRequest::default() };
        let all = resolve(&request).unwrap();
        let null: Vec<_> = all.iter().filter(|(node, _)| node.path() == Path::new("/dev/null")).collect();
        assert_eq!(null.len(), 1);
        assert_eq!((null[0].0.minor(), null[0].1.as_str()), (5, "r"));
        assert!(all.len() > 1);
    }
}
