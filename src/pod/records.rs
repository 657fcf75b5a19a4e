//! The records of pods and containers in the run directory. Only this file joins paths below `run/pods`.

use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use coracle_cri::Message;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::machine::State;
use crate::error::{Doing, Result};
use crate::linux::private;
use crate::record::format::{CONTAINER_RECORD, Format, POD_REQUEST, SANDBOX_RECORD};

/// The most that a record or a configuration has, in bytes: a message of kubelet has at most 16 MiB.
const MOST: u64 = 64 << 20;

/// A record with the format of its file.
pub(super) trait Stored: Serialize + DeserializeOwned {
    const FORMAT: Format;
}

impl Stored for SandboxRecord {
    const FORMAT: Format = SANDBOX_RECORD;
}

impl Stored for ContainerRecord {
    const FORMAT: Format = CONTAINER_RECORD;
}

/// The run directory.
#[derive(Debug, Clone)]
pub(super) struct Directories(PathBuf);

/// The directory of a pod or a container.
#[derive(Debug, Clone)]
pub(super) struct Directory(PathBuf);

/// The state of a pod on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    /// The runtime handler.
    pub(super) handler: String,
    /// When it was created, in nanoseconds since 1970.
    pub(super) created_ns: i64,
    /// Its IP addresses, the primary one first.
    pub(super) addresses: Vec<IpAddr>,
    /// Whether containers can be started in it.
    pub(super) ready: bool,
}

/// The state of a container on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) state: State,
    /// The image's id.
    pub(super) image_id: String,
    /// The image's digest reference in a registry, or its id.
    pub(super) image_ref: String,
    /// The name of its stop signal; empty for SIGTERM.
    pub(super) stop_signal: String,
    /// The ids of its process: user, group, supplementary groups.
    pub(super) user: (u32, u32, Vec<u32>),
    /// In nanoseconds since 1970; 0 for not yet.
    pub(super) created_ns: i64,
    pub(super) started_ns: i64,
    pub(super) finished_ns: i64,
    pub(super) exit_code: i32,
    /// One word, such as `Completed`, `Error` or `OOMKilled`.
    pub(super) reason: String,
    /// For humans.
    pub(super) message: String,
}

impl ContainerRecord {
    /// Sets the start time to now, unless an earlier time is known: the exit may be reported before the start.
    pub(super) fn set_started(&mut self) {
        self.limit_started(super::now_ns());
    }

    /// Sets the exit time. A container that has exited was started, whether its start was reported yet or not.
    pub(super) fn set_finished(&mut self, at_ns: i64) {
        self.finished_ns = at_ns;
        self.limit_started(at_ns);
    }

    /// Sets the start time to `latest_ns`, unless an earlier time is known.
    fn limit_started(&mut self, latest_ns: i64) {
        let known = [self.started_ns, self.finished_ns].into_iter().filter(|time| *time > 0);
        self.started_ns = known.fold(latest_ns, i64::min);
    }
}

impl Directories {
    pub(super) fn new(run: &Path) -> Self {
        Self(run.to_owned())
    }

    /// Creates the directories.
    pub(super) fn make(&self) -> Result<()> {
        let pods = self.pods();
        private::own_run_dir(&self.0)?;
        private::own_dir(&pods)?;
        // An earlier version may have created them with other modes, and its containers are still running.
        for pod in self.all()? {
            let pod = self.pod(&pod);
            pod.make()?;
            pod.containers()?.iter().try_for_each(|id| pod.container(id).make())?;
        }
        Ok(())
    }

    /// Checks the version of every record before anything is undone because a record could not be parsed.
    ///
    /// # Errors
    /// `Unsupported`, naming the first of them and its version.
    pub(super) fn check_versions(&self) -> Result<()> {
        self.all()?.iter().map(|id| self.pod(id)).try_for_each(|pod| {
            pod.check_versions(SANDBOX_RECORD)?;
            let containers = pod.containers()?;
            containers.iter().try_for_each(|id| pod.container(id).check_versions(CONTAINER_RECORD))
        })
    }

    fn pods(&self) -> PathBuf {
        self.0.join("pods")
    }

    pub(super) fn pod(&self, id: &str) -> Directory {
        Directory(self.pods().join(id))
    }

    /// The ids of all pods that have a directory.
    pub(super) fn all(&self) -> Result<Vec<String>> {
        names(&self.pods())
    }

    /// The directory of a container's writable layer when layers are on tmpfs.
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

    /// The directory of a container of this pod.
    pub(super) fn container(&self, id: &str) -> Self {
        Self(self.0.join("containers").join(id))
    }

    /// The ids of all containers that have a directory.
    pub(super) fn containers(&self) -> Result<Vec<String>> {
        names(&self.0.join("containers"))
    }

    pub(super) fn make(&self) -> Result<()> {
        private::own_dir(&self.0)
    }

    /// Writes the configuration that kubelet sent.
    pub(super) fn save_config(&self, config: &impl Message) -> Result<()> {
        let path = self.join("config");
        private::write(&path, [&POD_REQUEST.head()[..], &config.encode_to_vec()].concat(), private::FILE)
            .doing(|| format!("write {}", path.display()))
    }

    /// Writes the record atomically. The first record makes the pod or container exist.
    pub(super) fn save<T: Stored>(&self, record: &T) -> Result<()> {
        let (new, path) = (self.join("record.new"), self.join("record"));
        let doing = || format!("write {}", path.display());
        let text = T::FORMAT.to_json(record).map_err(|error| error.while_doing(doing()))?;
        private::replace(&path, &new, text, private::FILE).doing(doing)
    }

    /// The configuration that kubelet sent, and the record; none when there is no record.
    ///
    /// # Errors
    /// `Unsupported` when another release wrote one of them, `Corrupt` when one cannot be parsed.
    pub(super) fn load<C: Message + Default, T: Stored>(&self) -> Result<Option<(C, T)>> {
        let path = self.join("record");
        let text = match private::read(&path, MOST) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            other => other.doing(|| format!("read {}", path.display()))?,
        };
        let doing = |path: &Path| format!("read {}", path.display());
        let record = T::FORMAT.from_json(&text).map_err(|error| error.while_doing(doing(&path)))?;
        let path = self.join("config");
        let bytes = private::read(&path, MOST).doing(|| doing(&path))?;
        let opened = POD_REQUEST.open(&bytes);
        let config = opened.and_then(|(_, body)| C::decode(body).map_err(|e| POD_REQUEST.damaged(e)));
        Ok(Some((config.map_err(|error| error.while_doing(doing(&path)))?, record)))
    }

    /// # Errors
    /// `Unsupported` when another release wrote the record or the request.
    fn check_versions(&self, format: Format) -> Result<()> {
        let path = self.join("record");
        let record = private::read(&path, MOST).unwrap_or_default();
        // `load` reports a damaged record.
        let version = format.json_version(&record).unwrap_or(format.version);
        format.check(version).map_err(|e| e.while_doing(format!("read {}", path.display())))?;
        let path = self.join("config");
        let config = private::read(&path, MOST).unwrap_or_default();
        match POD_REQUEST.open(&config) {
            Err(e) if e.is_of_another_release() => Err(e.while_doing(format!("read {}", path.display()))),
            _ => Ok(()),
        }
    }

    /// Removes the record: from then on the pod or container does not exist, even if the rest of the removal is interrupted.
    pub(super) fn remove_record(&self) -> Result<()> {
        let path = self.join("record");
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).doing(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// Removes the directory with its content, if it exists.
    pub(super) fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.0) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).doing(|| format!("remove {}", self.0.display()))
            }
            _ => Ok(()),
        }
    }
}

/// The names of the directories in this one.
fn names(directory: &Path) -> Result<Vec<String>> {
    match std::fs::read_dir(directory) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        other => {
            let entries = other.doing(|| format!("read {}", directory.display()))?;
            // What is no directory is not ours, and keeps nothing from being served.
            let own = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            Ok(own.filter_map(|entry| entry.file_name().into_string().ok()).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
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
        // Nothing else in there keeps the pods from being served.
        std::fs::write(run.path().join("pods/stray"), "").unwrap();
        std::os::unix::fs::symlink("/", run.path().join("pods/link")).unwrap();
        directories.make().unwrap();
        directories.check_versions().unwrap();
        assert_eq!(directories.all().unwrap(), ["p"]);
        pod.remove_record().unwrap();
        assert!(pod.load::<v1::PodSandboxConfig, SandboxRecord>().unwrap().is_none());
    }

    #[test]
    fn a_container_that_exited_was_started_in_whichever_order_that_is_reported() {
        let times = |record: &ContainerRecord| (record.started_ns, record.finished_ns);
        let mut record = container_record(State::Starting);
        (record.started_ns, record.finished_ns) = (0, 0);
        let mut exit_first = record.clone();
        exit_first.set_finished(50);
        assert_eq!(times(&exit_first), (50, 50));
        exit_first.set_started();
        assert_eq!(times(&exit_first), (50, 50));
        let before = super::super::now_ns();
        record.set_started();
        let started = record.started_ns;
        assert!(started >= before);
        record.set_started();
        record.set_finished(started + 5);
        assert_eq!(times(&record), (started, started + 5));
        // The clock was set back in between.
        record.set_finished(7);
        assert_eq!(times(&record), (7, 7));
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

    fn sandbox_record() -> SandboxRecord {
        SandboxRecord {
            handler: "runc".to_owned(),
            created_ns: 7,
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            ready: true,
        }
    }

    fn container_record(state: State) -> ContainerRecord {
        ContainerRecord {
            state,
            image_id: "sha256:aa".to_owned(),
            image_ref: "docker.io/library/box@sha256:bb".to_owned(),
            stop_signal: "SIGUSR1".to_owned(),
            user: (1000, 1000, vec![5]),
            created_ns: 1,
            started_ns: 2,
            finished_ns: 3,
            exit_code: 137,
            reason: "OOMKilled".to_owned(),
            message: "why".to_owned(),
        }
    }

    #[test]
    fn golden_records() {
        use crate::record::golden;
        const GOLDEN: &str = "src/pod/golden";
        let written = SANDBOX_RECORD.to_json(&sandbox_record()).unwrap();
        golden::check(GOLDEN, "sandbox", SANDBOX_RECORD, &[("pod", written)]);
        let states = [
            ("created", State::Created),
            ("starting", State::Starting),
            ("running", State::Running),
            ("exited", State::Exited),
        ];
        let written =
            states.map(|(name, state)| (name, CONTAINER_RECORD.to_json(&container_record(state)).unwrap()));
        golden::check(GOLDEN, "container", CONTAINER_RECORD, &written);
        for version in [1, 2] {
            for (_, text) in golden::samples(GOLDEN, "sandbox", version) {
                assert_eq!(SANDBOX_RECORD.from_json(&text), Ok(sandbox_record()), "version {version}");
            }
            let samples = golden::samples(GOLDEN, "container", version);
            for ((_, text), (_, state)) in samples.into_iter().zip(states) {
                let record = CONTAINER_RECORD.from_json(&text);
                assert_eq!(record, Ok(container_record(state)), "version {version}");
            }
        }
    }

    #[test]
    fn a_record_of_another_release_is_refused_by_name() {
        let run = tempfile::tempdir().unwrap();
        let directories = Directories::new(run.path());
        directories.make().unwrap();
        let pod = directories.pod("p");
        pod.make().unwrap();
        pod.save_config(&v1::PodSandboxConfig::default()).unwrap();
        pod.save(&sandbox_record()).unwrap();
        let container = pod.container("c");
        container.make().unwrap();
        container.save_config(&v1::ContainerConfig::default()).unwrap();
        container.save(&container_record(State::Running)).unwrap();
        directories.check_versions().unwrap();
        let refused = |path: PathBuf, name: &str| {
            let whole = std::fs::read(&path).unwrap();
            let other = match whole[0] {
                b'{' => br#"{"version":9}"#.to_vec(),
                _ => [&whole[..2], &[9, 0], &whole[4..]].concat(),
            };
            std::fs::write(&path, other).unwrap();
            let error = directories.check_versions().unwrap_err();
            assert_eq!(error.kind(), Kind::Unsupported);
            assert!(error.chain().contains(&format!("version 9 of {name}")), "{error:?}");
            std::fs::write(&path, whole).unwrap();
            directories.check_versions().unwrap();
        };
        refused(pod.join("record"), "the record of a pod");
        refused(pod.join("config"), "the request for a pod or container");
        refused(container.join("record"), "the record of a pod's container");
        refused(container.join("config"), "the request for a pod or container");
        // The previous release wrote the configuration without a head.
        let config = v1::PodSandboxConfig { hostname: "h".into(), ..Default::default() };
        std::fs::write(pod.join("config"), config.encode_to_vec()).unwrap();
        assert_eq!(pod.load().unwrap(), Some((config, sandbox_record())));
    }
}
