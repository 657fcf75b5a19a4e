//! Checks the parts of a message that the server needs, mainly the identity of the pod or container. The backend checks the
//! rest.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::v1;

/// Checks the configuration in RunPodSandbox.
///
/// # Errors
/// `Invalid`, naming the field that is missing.
pub(crate) fn sandbox(config: Option<v1::PodSandboxConfig>) -> Result<v1::PodSandboxConfig> {
    let config = config.ok_or_else(|| Error::invalid("RunPodSandbox without a config"))?;
    let metadata = config.metadata.as_ref().ok_or_else(|| missing("metadata"))?;
    for (field, text) in [
        ("metadata.name", &metadata.name),
        ("metadata.namespace", &metadata.namespace),
        ("metadata.uid", &metadata.uid),
    ] {
        if text.is_empty() {
            return Err(missing(field));
        }
    }
    Ok(config)
}

/// Checks the configuration in CreateContainer.
///
/// # Errors
/// `Invalid`, naming the field that is missing.
pub(crate) fn container(config: Option<v1::ContainerConfig>) -> Result<v1::ContainerConfig> {
    let config = config.ok_or_else(|| Error::invalid("CreateContainer without a config"))?;
    let metadata = config.metadata.as_ref().ok_or_else(|| missing("metadata"))?;
    if metadata.name.is_empty() {
        return Err(missing("metadata.name"));
    }
    if config.image.as_ref().is_none_or(|image| image.image.is_empty()) {
        return Err(missing("image.image"));
    }
    Ok(config)
}

fn missing(field: &str) -> Error {
    Error::invalid(format!("{field} is missing"))
}

/// A field that must not be empty.
pub(crate) fn required(field: &str, text: String) -> Result<String> {
    if text.is_empty() { Err(Error::invalid(format!("{field} is empty"))) } else { Ok(text) }
}

/// A timeout in seconds.
pub(crate) fn seconds(timeout: i64) -> Result<Duration> {
    let seconds = u64::try_from(timeout);
    seconds.map(Duration::from_secs).map_err(|_| Error::invalid(format!("a timeout of {timeout} seconds")))
}

/// Checks the streams that Exec or Attach requests.
pub(crate) fn streams(tty: bool, [stdin, stdout, stderr]: [bool; 3]) -> Result<()> {
    if !(stdin || stdout || stderr) {
        return Err(Error::invalid("none of stdin, stdout and stderr is requested"));
    }
    if tty && stderr {
        return Err(Error::invalid("tty and stderr exclude each other: a terminal has no separate stderr"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    #[track_caller]
    fn refused<T: std::fmt::Debug>(result: Result<T>, naming: &str) {
        let error = result.unwrap_err();
        assert_eq!(error.kind, Kind::Invalid, "{error}");
        assert!(error.message.starts_with(naming), "{error} does not name {naming}");
    }

    #[test]
    fn a_pod_says_who_it_is() {
        let without = |change: fn(&mut v1::PodSandboxMetadata)| {
            let mut metadata = v1::PodSandboxMetadata {
                name: "web".into(),
                uid: "u1".into(),
                namespace: "default".into(),
                attempt: 0,
            };
            change(&mut metadata);
            sandbox(Some(v1::PodSandboxConfig { metadata: Some(metadata), ..Default::default() }))
        };
        assert!(without(|_| ()).is_ok());
        refused(sandbox(None), "RunPodSandbox");
        refused(sandbox(Some(v1::PodSandboxConfig::default())), "metadata is");
        refused(without(|m| m.name.clear()), "metadata.name");
        refused(without(|m| m.namespace.clear()), "metadata.namespace");
        refused(without(|m| m.uid.clear()), "metadata.uid");
    }

    #[test]
    fn a_container_names_itself_and_its_image() {
        let with = |name: &str, image: Option<&str>| {
            container(Some(v1::ContainerConfig {
                metadata: Some(v1::ContainerMetadata { name: name.into(), attempt: 0 }),
                image: image.map(|image| v1::ImageSpec { image: image.into(), ..Default::default() }),
                ..Default::default()
            }))
        };
        assert!(with("main", Some("sha256:abc")).is_ok());
        refused(container(None), "CreateContainer");
        refused(container(Some(v1::ContainerConfig::default())), "metadata is");
        refused(with("", Some("sha256:abc")), "metadata.name");
        refused(with("main", Some("")), "image.image");
        refused(with("main", None), "image.image");
    }
}
