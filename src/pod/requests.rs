//! Parsed requests on disk, so that a later daemon need not parse kubelet's configuration again.

use std::io::ErrorKind;

use coracle_cri::v1;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::records::Directory;
use super::request_from_cri::{CreateRequest, SandboxRequest};
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

/// The version of the file format.
const VERSION: u32 = 1;

const FILE: &str = "request";

#[derive(Debug, Serialize)]
struct Written<'a, T> {
    version: u32,
    request: &'a T,
}

#[derive(Debug, Deserialize)]
struct Version {
    version: u32,
}

#[derive(Debug, Deserialize)]
struct Read<T> {
    request: T,
}

/// Writes the request of a pod or container into its directory, atomically.
///
/// # Errors
/// It cannot be written.
pub(super) fn save<T: Serialize>(directory: &Directory, request: &T) -> Result<()> {
    let path = directory.join(FILE);
    let doing = || format!("write {}", path.display());
    let text = serde_json::to_vec(&Written { version: VERSION, request }).doing(doing)?;
    private::replace(&path, &directory.join("request.new"), text, private::FILE).doing(doing)
}

/// The request of a pod that an earlier daemon created.
///
/// # Errors
/// Neither its file nor the configuration that kubelet sent can be used.
pub(super) fn of_sandbox(directory: &Directory, config: &v1::PodSandboxConfig) -> Result<SandboxRequest> {
    load_or(directory, || SandboxRequest::from_cri(config))
}

/// The request of a container that an earlier daemon created.
///
/// # Errors
/// As [`of_sandbox`].
pub(super) fn of_container(
    directory: &Directory,
    config: &v1::ContainerConfig,
    pod: &SandboxRequest,
) -> Result<CreateRequest> {
    load_or(directory, || CreateRequest::from_cri(config, pod))
}

/// Daemons of other versions write no such file, or another version of it. All of them keep kubelet's configuration, so that
/// is parsed again if the file cannot be used.
fn load_or<T: DeserializeOwned>(directory: &Directory, read_again: impl FnOnce() -> Result<T>) -> Result<T> {
    match load(directory) {
        Ok(Some(request)) => Ok(request),
        Ok(None) => read_again(),
        Err(error) => {
            crate::log::warning(&error.chain());
            read_again()
        }
    }
}

fn load<T: DeserializeOwned>(directory: &Directory) -> Result<Option<T>> {
    let path = directory.join(FILE);
    let text = match std::fs::read(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.doing(|| format!("read {}", path.display()))?,
    };
    let damaged = |e| Error::new(Kind::Corrupt, format!("{} is damaged", path.display())).because(e);
    let Version { version } = serde_json::from_slice(&text).map_err(damaged)?;
    if version != VERSION {
        let what = format!("{} has version {version}, and version {VERSION} is known", path.display());
        return Err(Error::new(Kind::Unsupported, what));
    }
    let Read { request } = serde_json::from_slice(&text).map_err(damaged)?;
    Ok(Some(request))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::records::Directories;

    fn config() -> v1::PodSandboxConfig {
        v1::PodSandboxConfig { hostname: "web-0".to_owned(), ..Default::default() }
    }

    fn directory(run: &tempfile::TempDir) -> Directory {
        let directory = Directories::new(run.path()).pod("p");
        directory.make().unwrap();
        directory
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        let run = tempfile::tempdir().unwrap();
        let directory = directory(&run);
        let pod = SandboxRequest::from_cri(&config()).unwrap();
        save(&directory, &pod).unwrap();
        assert_eq!(of_sandbox(&directory, &v1::PodSandboxConfig::default()).unwrap(), pod);
        let envs = vec![v1::KeyValue { key: "RAW".to_owned(), value: vec![0xff, 0] }];
        let config = v1::ContainerConfig { envs, ..Default::default() };
        assert!(CreateRequest::from_cri(&config, &pod).is_err());
        let envs = vec![v1::KeyValue { key: "RAW".to_owned(), value: vec![0xff] }];
        let mounts = vec![v1::Mount {
            host_path: "/a".to_owned(),
            container_path: "/b".to_owned(),
            ..Default::default()
        }];
        let config = v1::ContainerConfig { envs, mounts, ..Default::default() };
        let request = CreateRequest::from_cri(&config, &pod).unwrap();
        save(&directory, &request).unwrap();
        let loaded = of_container(&directory, &v1::ContainerConfig::default(), &pod).unwrap();
        assert_eq!(loaded, request);
    }

    #[test]
    fn without_a_request_that_can_be_used_the_configuration_is_read() {
        let run = tempfile::tempdir().unwrap();
        let directory = directory(&run);
        let pod = SandboxRequest::from_cri(&config()).unwrap();
        assert_eq!(of_sandbox(&directory, &config()).unwrap(), pod);
        std::fs::write(directory.join(FILE), r#"{"version":2,"request":{"hostname":7}}"#).unwrap();
        assert_eq!(load::<SandboxRequest>(&directory).unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(of_sandbox(&directory, &config()).unwrap(), pod);
        for damaged in ["", "{", "{}", r#"{"version":1}"#, r#"{"version":1,"request":{"hostname":7}}"#] {
            std::fs::write(directory.join(FILE), damaged).unwrap();
            assert_eq!(load::<SandboxRequest>(&directory).unwrap_err().kind(), Kind::Corrupt, "{damaged}");
            assert_eq!(of_sandbox(&directory, &config()).unwrap(), pod, "{damaged}");
        }
    }

    /// A new field or another meaning needs a new version.
    #[test]
    fn the_form_of_version_1_stays() {
        let pod = SandboxRequest::from_cri(&config()).unwrap();
        let request = CreateRequest::from_cri(&v1::ContainerConfig::default(), &pod).unwrap();
        is_golden("sandbox-request-1", &pod);
        is_golden("create-request-1", &request);
    }

    #[track_caller]
    fn is_golden(name: &str, request: &impl Serialize) {
        let path = format!("{}/src/pod/golden/{name}.json", env!("CARGO_MANIFEST_DIR"));
        let text = format!("{:#}\n", serde_json::to_value(request).unwrap());
        if std::env::var("CORACLE_SNAPSHOTS").is_ok_and(|what| what == "write") {
            std::fs::write(&path, &text).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{path}");
    }
}
