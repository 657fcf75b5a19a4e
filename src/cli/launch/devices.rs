//! `--device`: passes a device node of the host to the container.

use crate::error::{Error, Result};
use crate::spec::request::DeviceRequest;

/// Parses `HOST[:CONTAINER[:rwm]]`: the host's node, its path inside, and the access.
///
/// # Errors
/// `Invalid` for relative paths and for other letters.
pub(super) fn device(text: &str) -> Result<DeviceRequest> {
    let hint = "write /dev/host[:/dev/container[:rwm]]";
    let mut parts = text.split(':');
    let host = parts.next().unwrap_or_default();
    let (mut inside, mut access) = (host, "rwm");
    match (parts.next(), parts.next(), parts.next()) {
        (None, ..) => {}
        // As in docker, a second part of only these letters is the access.
        (Some(second), None, _) if is_access(second) => access = second,
        (Some(second), None, _) => inside = second,
        (Some(second), Some(third), None) => (inside, access) = (second, third),
        _ => return Err(Error::invalid(format!("--device {text:?} has too many parts")).hint(hint)),
    }
    if !host.starts_with('/') || !inside.starts_with('/') || !is_access(access) {
        return Err(Error::invalid(format!("--device {text:?} is malformed")).hint(hint));
    }
    Ok(DeviceRequest { host: host.into(), inside: inside.into(), access: access.to_owned() })
}

fn is_access(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b"rwm".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_two_places_and_an_access() {
        for (text, host, inside, access) in [
            ("/dev/a", "/dev/a", "/dev/a", "rwm"),
            ("/dev/a:r", "/dev/a", "/dev/a", "r"),
            ("/dev/a:/dev/b", "/dev/a", "/dev/b", "rwm"),
            ("/dev/a:/dev/b:rw", "/dev/a", "/dev/b", "rw"),
        ] {
            let expected =
                DeviceRequest { host: host.into(), inside: inside.into(), access: access.to_owned() };
            assert_eq!(device(text).unwrap(), expected, "{text}");
        }
        for bad in ["", "null", "/dev/null:x", "/dev/null:/x:q", "/dev/null:/x:r:w"] {
            assert!(device(bad).is_err(), "{bad}");
        }
    }
}
