//! The node's devices, by path and by CDI name.

use std::collections::BTreeMap;

use super::absolute;
use coracle_cri::v1;

use crate::error::{Error, Result};
use crate::spec::request::DeviceRequest;

/// Annotations that name CDI devices, from before the CRI had a field for them.
const CDI_PREFIX: &str = "cdi.k8s.io/";

pub(super) fn all(devices: &[v1::Device]) -> Result<Vec<DeviceRequest>> {
    devices.iter().map(device).collect()
}

fn device(device: &v1::Device) -> Result<DeviceRequest> {
    let host = absolute("devices.host_path", &device.host_path)?;
    let inside = match device.container_path.as_str() {
        "" => host.clone(),
        path => absolute("devices.container_path", path)?,
    };
    let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
    if !access.bytes().all(|b| b"rwm".contains(&b)) {
        return Err(Error::invalid(format!(
            "device {:?}: permissions {access:?} are not some of r, w and m",
            device.host_path
        )));
    }
    Ok(DeviceRequest { host, inside, access: access.to_owned() })
}

/// The CDI names of the field and of annotations, without duplicates: kubelet sends both for older runtimes.
pub(super) fn cdi(fields: &[v1::CdiDevice], annotations: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let annotated =
        annotations.iter().filter(|(key, _)| key.starts_with(CDI_PREFIX)).flat_map(|(_, v)| v.split(','));
    let mut names: Vec<String> = Vec::new();
    for name in fields.iter().map(|d| d.name.as_str()).chain(annotated) {
        check_cdi(name)?;
        if !names.iter().any(|n| n == name) {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// Checks `vendor/class=name` by the rules of the CDI specification.
fn check_cdi(name: &str) -> Result<()> {
    let made_of = |text: &str, extra: &[u8]| {
        text.bytes().all(|b| b.is_ascii_alphanumeric() || extra.contains(&b))
            && text.ends_with(|c: char| c.is_ascii_alphanumeric())
    };
    let begins_with_letter = |text: &str| text.starts_with(|c: char| c.is_ascii_alphabetic());
    let valid = name.split_once('=').and_then(|(kind, device)| {
        let (vendor, class) = kind.split_once('/')?;
        Some(
            begins_with_letter(vendor)
                && made_of(vendor, b"_-.")
                && begins_with_letter(class)
                && made_of(class, b"_-.")
                && device.starts_with(|c: char| c.is_ascii_alphanumeric())
                && made_of(device, b"_-.:"),
        )
    });
    if valid == Some(true) {
        return Ok(());
    }
    Err(Error::invalid(format!("CDI device {name:?} is not vendor/class=name")))
}
