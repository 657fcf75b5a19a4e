//! Records of attached interfaces: one file for each interface of a container, `<container>@<interface>.json`.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::attachment::{Attachment, Capabilities};
use super::network::Network;
use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;
use crate::record::format::ATTACHMENT;

/// The most that a record has, in bytes: a network's configuration and the result of its plugins.
const MOST: u64 = 4 << 20;

/// The data needed to detach an interface in the way it was attached.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    /// The container's id.
    pub(super) container: String,
    /// The interface's name inside the namespace.
    pub(super) interface: String,
    /// The file of the namespace.
    pub(super) namespace: PathBuf,
    /// `CNI_ARGS`
    pub(super) args: BTreeMap<String, String>,
    /// The values of the capabilities that were requested.
    pub(super) capabilities: Map<String, Value>,
    /// The network, in the form that [`Network::parse`] reads.
    pub(super) network: Value,
    /// The last plugin's result; `None` when attaching was interrupted.
    pub(super) result: Option<Value>,
}

impl Record {
    pub(super) fn new(attachment: &Attachment, network: &Network) -> Self {
        Self {
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

    /// Replaces the file atomically. It is not synced, which would cost each start of a pod a write to the flash: what a power
    /// cut damages is of the last seconds, and is detached by its name ([`Entry::Damaged`]).
    pub(super) fn save(&self, directory: &Path) -> Result<()> {
        let path = file(directory, &self.container, &self.interface);
        let doing = || format!("write {}", path.display());
        private::make_dirs(directory, private::DIR).doing(doing)?;
        let text = ATTACHMENT.to_json(self).map_err(|e| e.while_doing(doing()))?;
        private::replace(&path, &path.with_extension("new"), text, private::FILE).doing(doing)
    }

    /// Removes the file; a missing file is no error.
    pub(super) fn remove(&self, directory: &Path) -> Result<()> {
        remove(directory, &self.container, &self.interface)
    }

    /// The interface that it is of.
    pub(super) fn attachment(&self) -> Attachment {
        Attachment {
            container: self.container.clone(),
            namespace: self.namespace.clone(),
            interface: self.interface.clone(),
            args: self.args.clone(),
            capabilities: Capabilities {
                others: self.capabilities.clone().into_iter().collect(),
                ..Capabilities::default()
            },
        }
    }
}

/// A file in the directory of records.
#[derive(Debug)]
pub(super) enum Entry {
    /// A record.
    Readable(Record),
    /// A damaged one: the interface, as far as the file's name says, and the reason.
    Damaged(Attachment, Error),
}

/// All records.
///
/// # Errors
/// When they cannot be read; `Unsupported` when another release wrote one: the interface it stands for must not be freed.
pub(super) fn all(directory: &Path) -> Result<Vec<Entry>> {
    let doing = || format!("read {}", directory.display());
    let entries = match std::fs::read_dir(directory) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing(doing)?,
    };
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.doing(doing)?.path();
        if path.extension().is_some_and(|e| e == "new") {
            // A write was interrupted. Nobody writes now: the caller holds the lock.
            let _ = std::fs::remove_file(&path);
        }
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        match read(&path) {
            Ok(record) => all.extend(record.map(Entry::Readable)),
            Err(error) if error.kind() == Kind::Corrupt => match named(&path) {
                Some(of) => all.push(Entry::Damaged(of, error)),
                None => crate::log::warning(&error.chain()),
            },
            Err(error) => return Err(error),
        }
    }
    Ok(all)
}

/// Moves all records to another directory, which may be on another filesystem.
pub(super) fn move_all(from: &Path, to: &Path) -> Result<()> {
    let doing = || format!("move the records in {} to {}", from.display(), to.display());
    let entries = match std::fs::read_dir(from) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
        _ if from == to => return Ok(()),
        other => other.doing(doing)?,
    };
    private::make_dirs(to, private::DIR).doing(doing)?;
    for entry in entries {
        let entry = entry.doing(doing)?;
        let target = to.join(entry.file_name());
        let bytes = private::read(&entry.path(), MOST).doing(doing)?;
        private::replace(&target, &target.with_extension("new"), bytes, private::FILE).doing(doing)?;
        std::fs::remove_file(entry.path()).doing(doing)?;
    }
    std::fs::remove_dir(from).doing(doing)
}

/// Removes the record of an interface; a missing file is no error.
pub(super) fn remove(directory: &Path, container: &str, interface: &str) -> Result<()> {
    let path = file(directory, container, interface);
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        other => other.doing(|| format!("remove {}", path.display())),
    }
}

/// The interface that a record is of, by its file's name. Its namespace is unknown.
fn named(path: &Path) -> Option<Attachment> {
    let (container, interface) = path.file_stem()?.to_str()?.split_once('@')?;
    let of = Attachment {
        container: container.to_owned(),
        interface: interface.to_owned(),
        ..Attachment::default()
    };
    of.check().ok().map(|()| of)
}

fn file(directory: &Path, container: &str, interface: &str) -> PathBuf {
    // Ids never contain an @.
    directory.join(format!("{container}@{interface}.json"))
}

fn read(path: &Path) -> Result<Option<Record>> {
    let text = match private::read(path, MOST) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other.doing(|| format!("read {}", path.display()))?,
    };
    let record = ATTACHMENT.from_json(&text);
    record.map(Some).map_err(|e| e.while_doing(format!("read {}", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::golden;
    use serde_json::json;

    #[test]
    fn golden_records() {
        let record = Record {
            container: "pod".to_owned(),
            interface: "eth0".to_owned(),
            namespace: "/run/pod/net".into(),
            args: BTreeMap::from([("K8S_POD_NAME".to_owned(), "p".to_owned())]),
            capabilities: Map::from_iter([("ips".to_owned(), json!(["10.0.0.2/24"]))]),
            network: json!({"name": "n"}),
            result: Some(json!({"cniVersion": "1.0.0"})),
        };
        let written = ATTACHMENT.to_json(&record).unwrap();
        golden::check("src/net/cni/golden", "attachment", ATTACHMENT, &[("pod", written)]);
        for version in [1, 2] {
            for (_, text) in golden::samples("src/net/cni/golden", "attachment", version) {
                assert_eq!(ATTACHMENT.from_json(&text), Ok(record.clone()), "version {version}");
            }
        }
    }

    #[test]
    fn a_record_of_another_release_is_an_error_and_a_damaged_one_is_known_by_its_name() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a@eth0.json"), "{").unwrap();
        std::fs::write(directory.path().join("nobody.json"), "{").unwrap();
        let found = all(directory.path()).unwrap();
        let [Entry::Damaged(of, _)] = &found[..] else { panic!("{found:?}") };
        assert_eq!((of.container.as_str(), of.interface.as_str()), ("a", "eth0"));
        std::fs::write(directory.path().join("b@eth0.json"), r#"{"version":9,"x":1}"#).unwrap();
        let error = all(directory.path()).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.chain().contains("version 9 of the record of an attached interface"), "{error:?}");
    }
}
