//! containerd's data on a node that uses Coracle.

use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use crate::check::Tree;
use crate::error::{Doing, Error, Kind, Result};
use crate::image::containerd::METADATA;

/// The disk space of a directory in bytes; `None` if there is none.
pub(super) fn size(path: &Path) -> Option<u64> {
    let root = path.symlink_metadata().ok()?;
    let (mut total, mut open) = (0_u64, vec![path.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            // Mounted root file systems of containers are not containerd's data.
            if meta.dev() != root.dev() {
                continue;
            }
            total += meta.blocks() * 512;
            if meta.is_dir() {
                open.push(entry.path());
            }
        }
    }
    Some(total)
}

/// Removes a directory of containerd's.
///
/// # Errors
/// `WrongState` while a containerd runs or something is mounted below it; `Invalid` for a link.
pub(super) fn remove(tree: &Tree, name: &Path) -> Result<()> {
    let doing = || format!("remove {}", name.display());
    let path = tree.entry(name).doing(doing)?;
    if path.is_symlink() {
        return Err(
            Error::invalid(format!("{}: it is a link", doing())).hint("remove what it leads to by hand")
        );
    }
    if is_in_use(&path) {
        let doing = format!("{}: containerd runs", doing());
        return Err(
            Error::new(Kind::WrongState, doing).hint("restart the node's Kubernetes with Coracle first")
        );
    }
    if let Some(mount) = mount_below(&path.canonicalize().doing(doing)?) {
        let doing = format!("{}: {mount} is mounted", doing());
        return Err(Error::new(Kind::WrongState, doing)
            .hint("end containerd's pods first (k3s-killall.sh, microk8s stop, or a reboot)"));
    }
    std::fs::remove_dir_all(&path).doing(doing)
}

/// Whether a containerd runs on this data: it holds a lock on its metadata.
pub(super) fn is_in_use(path: &Path) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open(path.join(METADATA), flags, Mode::empty());
    file.is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared).is_err())
}

/// A mount at or below a directory, from mountinfo: its fifth field, with blanks and backslashes as octal numbers.
fn mount_below(path: &Path) -> Option<String> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let points = text.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let wanted = path.as_os_str().as_bytes();
    points.map(unescaped).find_map(|point| {
        let rest = point.strip_prefix(wanted)?;
        (rest.is_empty() || rest.starts_with(b"/")).then(|| String::from_utf8_lossy(&point).into_owned())
    })
}

fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [byte, after @ ..] = rest {
        let octal =
            after.get(..3).filter(|_| *byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(number) => {
                out.push(number);
                rest = &after[3..];
            }
            None => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_their_unescaped_names() {
        assert_eq!(unescaped(br"/a\040b\134c\0"), br"/a b\c\0");
        assert_eq!(mount_below(Path::new("/proc")).as_deref(), Some("/proc"));
        assert_eq!(mount_below(Path::new("/pro")), None);
    }
}
