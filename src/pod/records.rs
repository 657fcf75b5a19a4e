//! What is known of pods and containers on disk, in memory like all of /run: the only place that joins these paths.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use coracle_cri::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::machine::State;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

/// The run directory.
#[derive(Debug, Clone)]
pub(super) struct Directories(PathBuf);

/// What a pod or a container has in the run directory.
#[derive(Debug, Clone)]
pub(super) struct Directory(PathBuf);

/// What became of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    /// The runtime handler.
    pub(super) handler: String,
    /// When it was made, in nanoseconds since 1970.
    pub(super) created_ns: i64,
    /// Its addresses in the network, the main one first.
    pub(super) addresses: Vec<IpAddr>,
    /// Containers can be started in it.
    pub(super) ready: bool,
}

/// What became of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    /// Where it is in its life.
    pub(super) state: State,
    /// The image's id.
    pub(super) image_id: String,
    /// What a registry knows the image by, or its id.
    pub(super) image_ref: String,
    /// The name of the signal that its end begins with; empty for SIGTERM.
    pub(super) stop_signal: String,
    /// The process's ids: user, group, other groups.
    pub(super) user: (u32, u32, Vec<u32>),
    /// In nanoseconds since 1970; 0 for not yet.
    pub(super) created_ns: i64,
    pub(super) started_ns: i64,
    pub(super) finished_ns: i64,
    pub(super) exit_code: i32,
    /// One word, as `Completed`, `Error` or `OOMKilled`.
    pub(super) reason: String,
    /// For people.
    pub(super) message: String,
}

impl Directories {
    pub(super) fn new(run: &Path) -> Self {
        Self(run.to_owned())
    }

    /// Makes what has to be there.
    pub(super) fn make(&self) -> Result<()> {
        let pods = self.pods();
        private::own_run_dir(&self.0)?;
        private::own_dir(&pods)?;
        // Of an earlier version, whose containers go on.
        for pod in self.all()? {
            let pod = self.pod(&pod);
            pod.make()?;
            pod.containers()?.iter().try_for_each(|id| pod.container(id).make())?;
        }
        Ok(())
    }

    fn pods(&self) -> PathBuf {
        self.0.join("pods")
    }

    /// A pod's.
    pub(super) fn pod(&self, id: &str) -> Directory {
        Directory(self.pods().join(id))
    }

    /// The ids of all pods that have one.
    pub(super) fn all(&self) -> Result<Vec<String>> {
        names(&self.pods())
    }

    /// Where a container's writable layer lies when it is to be in memory.
    pub(super) fn layer(&self, id: &str) -> PathBuf {
        self.0.join("layers").join(id)
    }
}

impl Directory {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// A file or directory in it.
    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// That of a container of this pod.
    pub(super) fn container(&self, id: &str) -> Self {
        Self(self.0.join("containers").join(id))
    }

    /// The ids of all containers that have one.
    pub(super) fn containers(&self) -> Result<Vec<String>> {
        names(&self.0.join("containers"))
    }

    pub(super) fn make(&self) -> Result<()> {
        private::own_dir(&self.0)
    }

    /// Writes what kubelet sent.
    pub(super) fn save_config(&self, config: &impl Message) -> Result<()> {
        let path = self.join("config");
        private::write(&path, config.encode_to_vec(), private::FILE)
            .doing(|| format!("write {}", path.display()))
    }

    /// Writes the record: whole, or not at all. From the first on, the pod or container exists.
    pub(super) fn save<T: Serialize>(&self, record: &T) -> Result<()> {
        let (new, path) = (self.join("record.new"), self.join("record"));
        let doing = || format!("write {}", path.display());
        let text = serde_json::to_vec(record).doing(doing)?;
        private::replace(&path, &new, text, private::FILE).doing(doing)
    }

    /// What kubelet sent, and the record; none when there is no record.
    pub(super) fn load<C: Message + Default, T: DeserializeOwned>(&self) -> Result<Option<(C, T)>> {
        let path = self.join("record");
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.doing(|| format!("read {}", path.display()))?,
        };
        let damaged = || Error::new(Kind::Corrupt, format!("{} is damaged", self.0.display()));
        let record = serde_json::from_slice(&text).map_err(|e| damaged().because(e))?;
        let path = self.join("config");
        let bytes = std::fs::read(&path).doing(|| format!("read {}", path.display()))?;
        let config = C::decode(bytes.as_slice()).map_err(|e| damaged().because(e.to_string()))?;
        Ok(Some((config, record)))
    }

    /// From here on it does not exist, whatever is still to be removed.
    pub(super) fn forget(&self) -> Result<()> {
        let path = self.join("record");
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).doing(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes all that is in it; absent is fine.
    pub(super) fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).doing(|| format!("remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

fn names(directory: &Path) -> Result<Vec<String>> {
    match std::fs::read_dir(directory) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => {
            let entries = other.doing(|| format!("read {}", directory.display()))?;
            Ok(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use coracle_cri::v1;

    #[test]
    fn what_was_saved_is_loaded_and_what_has_no_record_is_not_there() {
        let run = tempfile::tempdir().unwrap();
        let directories = Directories::new(run.path());
        directories.make().unwrap();
        let pod = directories.pod("p");
        pod.make().unwrap();
        let config = v1::PodSandboxConfig { hostname: "h".into(), ..Default::default() };
        pod.save_config(&config).unwrap();
        assert!(pod.load::<v1::PodSandboxConfig, SandboxRecord>().unwrap().is_none());
        let record =
            SandboxRecord { handler: String::new(), created_ns: 7, addresses: Vec::new(), ready: true };
        pod.save(&record).unwrap();
        assert_eq!(pod.load().unwrap(), Some((config, record)));
        assert_eq!(directories.all().unwrap(), ["p"]);
        pod.forget().unwrap();
        assert!(pod.load::<v1::PodSandboxConfig, SandboxRecord>().unwrap().is_none());
    }

    #[test]
    fn a_damaged_record_is_an_error() {
        let run = tempfile::tempdir().unwrap();
        let pod = Directories::new(run.path()).pod("p");
        pod.make().unwrap();
        std::fs::write(pod.join("record"), "{").unwrap();
        let error = pod.load::<v1::PodSandboxConfig, SandboxRecord>().unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
    }
}
