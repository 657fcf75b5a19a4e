//! `--device`: nodes of the host for the container.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{FileType, stat};

use crate::error::{Doing, Error, Result};

/// `HOST[:CONTAINER[:rwm]]`: the node and what may be done with it.
///
/// # Errors
/// `Invalid` for bad access letters or a host path that is no device.
pub fn device(text: &str) -> Result<(LinuxDevice, String)> {
    let hint = "write /dev/host[:/dev/container[:rwm]]";
    let mut parts = text.split(':');
    let host = parts.next().unwrap_or_default();
    let (mut inside, mut access) = (host, "rwm");
    match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => {}
        // docker reads a second part of only these letters as the access.
        (Some(second), None, _) if is_access(second) => access = second,
        (Some(second), None, _) => inside = second,
        (Some(second), Some(third), None) => (inside, access) = (second, third),
        _ => return Err(Error::invalid(format!("--device {text:?} has too many parts")).hint(hint)),
    }
    if !host.starts_with('/') || !inside.starts_with('/') || !is_access(access) {
        return Err(Error::invalid(format!("--device {text:?} is not understood")).hint(hint));
    }
    Ok((node(Path::new(host), inside.into())?, access.to_owned()))
}

fn is_access(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b"rwm".contains(&b))
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

/// The node at a path of the host, to be at `inside`; or all below a directory.
///
/// # Errors
/// `Invalid` for what is neither; it cannot be found.
pub fn below(host: &Path, inside: &Path) -> Result<Vec<LinuxDevice>> {
    let doing = || format!("find the device {}", host.display());
    // A link is as good as what it leads to, and keeps its name inside.
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

/// Every node of the host's /dev, for a privileged container; links, terminals' and private directories left out.
///
/// # Errors
/// /dev cannot be read.
pub fn all_of_host() -> Result<Vec<(LinuxDevice, String)>> {
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

    #[test]
    fn devices_are_found_on_the_host() {
        let (device, access) = device("/dev/null:/dev/nothing:r").unwrap();
        assert_eq!((device.major(), device.minor(), access.as_str()), (1, 3, "r"));
        assert_eq!(device.path(), Path::new("/dev/nothing"));
        for bad in
            ["null", "/dev/null:x", "/dev/null:/x:q", "/dev/null:/x:r:w", "/etc/passwd", "/dev/no-such"]
        {
            assert!(super::device(bad).is_err(), "{bad}");
        }
    }
}
