//! `state.json`: a container's record, in runc's format, and its public form for `state` and hooks.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use oci_spec::runtime::Hooks;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize, Serializer};

use super::format::STATE;
use super::lock::absent;
use super::time::rfc3339;
use super::{Exit, Layout};
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

/// A container's record. Keys that runc's `state.json` has too are spelled as there; those that only Coracle needs
/// are in `coracle`.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
pub struct ContainerState {
    /// The container's id.
    pub id: String,
    /// The pid of its first process.
    pub init_process_pid: i32,
    /// The start time of that process in clock ticks since boot, which together with the pid identifies it.
    pub init_process_start: u64,
    /// The time of its creation, RFC 3339, UTC.
    pub created: String,
    /// The part of the configuration that other tools read.
    #[serde(default)]
    pub config: BundleConfig,
    /// The cgroup directories: by controller on v1, under the empty name on v2.
    #[serde(default)]
    pub cgroup_paths: BTreeMap<String, PathBuf>,
    /// Namespaces of the first process by their clone flag.
    #[serde(default)]
    pub namespace_paths: BTreeMap<String, PathBuf>,
    /// The part that only Coracle needs.
    #[serde(default)]
    pub coracle: Extra,
}

/// runc's `config` object, as far as other tools read it.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct BundleConfig {
    /// The root filesystem.
    #[serde(default)]
    pub rootfs: PathBuf,
    /// `bundle=PATH`, then `key=value` for each annotation.
    #[serde(default)]
    pub labels: Vec<String>,
}

/// Fields that runc's format does not have.
#[derive(Debug, Clone, Default, Serialize, Deserialize, PartialEq)]
pub struct Extra {
    /// The version of this object.
    #[serde(default)]
    pub version: u16,
    /// The bundle directory.
    #[serde(default)]
    pub bundle: PathBuf,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Hooks that run after the creation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// Its processes keep their caller's session keyring (`--no-new-keyring`).
    #[serde(default)]
    pub no_new_keyring: bool,
    /// The cgroup belongs to a systemd scope.
    #[serde(default)]
    pub systemd_cgroup: bool,
}

/// The state that `state` prints and hooks read. SPEC(runtime 1.2 #state)
#[derive(Debug, Clone, Serialize, PartialEq, Eq)]
pub struct PublicState {
    /// The version of the specification that this form follows.
    #[serde(rename = "ociVersion")]
    pub oci_version: String,
    /// The container's id.
    pub id: String,
    /// The status: creating, created, running, paused or stopped.
    pub status: String,
    /// The pid of its first process; 0 when stopped.
    pub pid: i32,
    /// The bundle directory.
    pub bundle: PathBuf,
    /// The root filesystem.
    pub rootfs: PathBuf,
    /// The time of its creation.
    pub created: String,
    /// The owner of the state.
    pub owner: String,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// How it ended, if a keeper saw the end.
    #[serde(flatten, skip_serializing_if = "Option::is_none", serialize_with = "public_exit")]
    pub exit: Option<Exit>,
}

/// An exit in the form that programs read in the output of `state` and `list`.
fn public_exit<S: Serializer>(exit: &Option<Exit>, to: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Public {
        exit_code: u8,
        oom_killed: bool,
        #[serde(skip_serializing_if = "std::ops::Not::not")]
        exit_unknown: bool,
        finished_at: String,
    }
    let public = exit.map(|exit| Public {
        exit_code: exit.code,
        oom_killed: exit.oom,
        exit_unknown: exit.unknown,
        finished_at: rfc3339(exit.at_ns),
    });
    public.serialize(to)
}

/// The version of the runtime specification that Coracle follows.
pub const OCI_VERSION: &str = "1.2.1";

impl ContainerState {
    /// Reads a container's record.
    ///
    /// # Errors
    /// `NotFound` when there is none, `Corrupt` when it cannot be parsed, `Unsupported` when another release wrote
    /// it.
    pub fn load(layout: &Layout) -> Result<Self> {
        let path = layout.state();
        let read = || -> std::io::Result<(u32, Vec<u8>)> {
            let mut file = private::open(&path, OFlags::RDONLY)?;
            let mut text = Vec::new();
            file.read_to_end(&mut text)?;
            Ok((file.metadata()?.uid(), text))
        };
        let (owner, text) = match read() {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Err(absent(layout)),
            other => other.doing(|| format!("read {}", path.display()))?,
        };
        // The record contains hooks, which are executed as this user.
        let us = rustix::process::geteuid().as_raw();
        if owner != us {
            let what = format!("{} belongs to user {owner}, not to {us}", path.display());
            return Err(Error::new(Kind::Denied, what).hint("another user created it: use another --root"));
        }
        let doing = || format!("read {}", path.display());
        STATE.check(Self::version(&text)).map_err(|e| e.while_doing(doing()))?;
        serde_json::from_slice(&text).map_err(|e| {
            let name = layout.directory().file_name().unwrap_or_default().to_string_lossy();
            Error::new(Kind::Corrupt, format!("{} is damaged", path.display()))
                .because(e)
                .command_hint(format!("remove the container: coracle delete --force {name}"))
        })
    }

    /// The version of a record; 0 if it has none, as in runc's.
    fn version(text: &[u8]) -> u16 {
        #[derive(Deserialize)]
        struct Whole {
            coracle: Part,
        }
        #[derive(Deserialize)]
        struct Part {
            version: u16,
        }
        serde_json::from_slice::<Whole>(text).map_or(0, |whole| whole.coracle.version)
    }

    /// Replaces a container's record atomically. It is on a tmpfs, so it is not synced.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, layout: &Layout) -> Result<()> {
        let (new, path) = (layout.temporary_state(), layout.state());
        let doing = || format!("write {}", path.display());
        let text = serde_json::to_vec(self).doing(doing)?;
        private::replace(&path, &new, text, private::FILE).doing(doing)
    }

    /// The public form.
    pub fn public(&self, status: &str) -> PublicState {
        PublicState {
            oci_version: OCI_VERSION.to_owned(),
            id: self.id.clone(),
            status: status.to_owned(),
            pid: if status == "stopped" { 0 } else { self.init_process_pid },
            bundle: self.coracle.bundle.clone(),
            rootfs: self.config.rootfs.clone(),
            created: self.created.clone(),
            owner: String::new(),
            annotations: self.coracle.annotations.clone(),
            exit: None,
        }
    }
}
