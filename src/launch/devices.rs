//! The device nodes of a container: the default ones, the configured ones, and the symbolic links in /dev.

use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};

use super::mounts::MountOptions;
use super::steps::{DeviceStep, Step};
use super::text::{below, cleaned, cpath, cstring};
use super::toolbox::default_devices;
use crate::error::{Error, Result};
use crate::linux::ids;

/// Symbolic links that every container has in /dev. SPEC(runtime 1.2 #dev-symbolic-links)
const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// Whether the mount binds a host directory on /dev, which is then left as it is.
pub(super) fn is_bind_on_dev(mount: &Mount) -> bool {
    let options = mount.options().as_deref().unwrap_or_default();
    let dev = mount.destination().components().eq(Path::new("/dev").components());
    dev && (mount.typ().as_deref() == Some("bind") || MountOptions::parse(options).bind.is_some())
}

/// Pushes the nodes and links, but for nodes that one of the `mounts` takes the place of: the file there belongs to its source.
/// With `bind` the host's nodes are bind-mounted, because mknod(2) is not allowed in a user namespace.
///
/// # Errors
/// `Invalid` for a node without a path or with a number out of range.
pub(super) fn push(
    configured: &[LinuxDevice],
    mounts: &[Mount],
    bind: bool,
    steps: &mut Vec<Step>,
) -> Result<()> {
    let defaults = default_devices();
    let overridden = |device: &LinuxDevice| configured.iter().any(|c| c.path() == device.path());
    let covered = |device: &LinuxDevice| {
        let path = cleaned(device.path());
        mounts.iter().any(|mount| cleaned(mount.destination()) == path)
    };
    let all = defaults.iter().filter(|d| !overridden(d)).chain(configured);
    for device in all.filter(|device| !covered(device)) {
        steps.push(Step::Device(Box::new(device_step(device, bind)?)));
    }
    for (link, target) in LINKS {
        let link = below("/dev", Path::new(link))?;
        steps.push(Step::Symlink { target: cstring("/dev", target)?, link });
    }
    Ok(())
}

fn device_step(device: &LinuxDevice, bind: bool) -> Result<DeviceStep> {
    let path = device.path();
    if !path.is_absolute() {
        return Err(Error::invalid(format!("linux.devices: path {path:?} is not absolute")));
    }
    let kind = match device.typ() {
        LinuxDeviceType::B => libc::S_IFBLK,
        LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
        LinuxDeviceType::P => libc::S_IFIFO,
        LinuxDeviceType::A => {
            return Err(Error::invalid(format!("linux.devices: {path:?} has the type a"))
                .hint("use c, u, b or p; a is for cgroup rules"));
        }
    };
    let number = |field: &str, n: i64| {
        u32::try_from(n)
            .map_err(|e| Error::invalid(format!("linux.devices: {path:?}: {field} is {n}")).because(e))
    };
    let owner = (device.uid().unwrap_or(0), device.gid().unwrap_or(0));
    ids::check(&format!("linux.devices: {path:?}: uid"), owner.0)?;
    ids::check(&format!("linux.devices: {path:?}: gid"), owner.1)?;
    let fifo = kind == libc::S_IFIFO;
    let dev = if fifo {
        0
    } else {
        rustix::fs::makedev(number("major", device.major())?, number("minor", device.minor())?)
    };
    Ok(DeviceStep {
        node: below("linux.devices: path", path)?,
        mode: kind | (device.file_mode().unwrap_or(0o666) & 0o7777),
        dev,
        owner,
        bind_from: (bind && !fifo).then(|| cpath("linux.devices: path", path)).transpose()?,
    })
}
