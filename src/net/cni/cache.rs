//! Records of what is attached: one file for each interface of a container, `<container>@<interface>.json`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::attachment::Attachment;
use super::network::Network;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

/// The form of the file; one with another number is of another release.
const FORM: u32 = 1;

/// What is needed to detach an interface as it was attached.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    form: u32,
    /// The container's id.
    pub(super) container: String,
    /// The interface's name inside.
    pub(super) interface: String,
    /// The namespace's file.
    pub(super) namespace: PathBuf,
    /// `CNI_ARGS`
    pub(super) args: BTreeMap<String, String>,
    /// What plugins that can were asked for.
    pub(super) capabilities: Map<String, Value>,
    /// The network, as [`Network::parse`] reads it.
    pub(super) network: Value,
    /// The last plugin's result; none when the work was interrupted.
    pub(super) result: Option<Value>,
}

impl Record {
    pub(super) fn new(attachment: &Attachment, network: &Network) -> Self {
        Self {
            form: FORM,
            container: attachment.container.clone(),
            interface: attachment.interface.clone(),
            namespace: attachment.namespace.clone(),
            args: attachment.args.clone(),
            capabilities: attachment.capabilities.values(),
            network: network.value(),
            result: None,
        }
    }

    pub(super) fn with_result(&self, result: Value) -> Self {
        Self { result: Some(result), ..self.clone() }
    }

    /// The record of this interface, if there is one.
    pub(super) fn load(directory: &Path, container: &str, interface: &str) -> Result<Option<Self>> {
        read(&file(directory, container, interface))
    }

    /// All records. One that was damaged by a power cut is left out: what it stood for cannot be known.
    pub(super) fn all(directory: &Path) -> Result<Vec<Self>> {
        let doing = || format!("read {}", directory.display());
        let entries = match std::fs::read_dir(directory) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.doing(doing)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.doing(doing)?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match read(&path) {
                Ok(record) => all.extend(record),
                Err(e) if e.kind() == Kind::Corrupt => crate::log::warning(&e.chain()),
                Err(e) => return Err(e),
            }
        }
        Ok(all)
    }

    /// Replaces the file whole. It is not synced: a power cut ends what it stands for.
    pub(super) fn save(&self, directory: &Path) -> Result<()> {
        let path = file(directory, &self.container, &self.interface);
        let doing = || format!("write {}", path.display());
        private::make_dirs(directory, private::DIR).doing(doing)?;
        let text = serde_json::to_vec(self).doing(doing)?;
        private::replace(&path, &path.with_extension("new"), text, private::FILE).doing(doing)
    }

    /// Removes the file; absent is fine.
    pub(super) fn remove(&self, directory: &Path) -> Result<()> {
        let path = file(directory, &self.container, &self.interface);
        match std::fs::remove_file(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other.doing(|| format!("remove {}", path.display())),
        }
    }
}

fn file(directory: &Path, container: &str, interface: &str) -> PathBuf {
    // No id has an @ in it.
    directory.join(format!("{container}@{interface}.json"))
}

fn read(path: &Path) -> Result<Option<Record>> {
    let text = match std::fs::read(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.doing(|| format!("read {}", path.display()))?,
    };
    let damaged = || Error::new(Kind::Corrupt, format!("{} is damaged", path.display()));
    let record: Record = serde_json::from_slice(&text).map_err(|e| damaged().because(e))?;
    if record.form != FORM {
        return Err(damaged().because(format!("its form is {}, not {FORM}", record.form)));
    }
    Ok(Some(record))
}
