//! A note of the directories of a container's cgroup, written before the container has a record.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Layout;
use super::format::{CGROUP_NOTE, Unreadable};
use crate::error::{Doing, Result};
use crate::linux::private;

/// The content of the note.
#[derive(Serialize, Deserialize)]
struct GroupNote<P> {
    paths: P,
}

/// Writes down which directories will be created.
///
/// # Errors
/// The file cannot be written.
pub fn note_group(layout: &Layout, paths: &BTreeMap<String, PathBuf>) -> Result<()> {
    let file = layout.cgroup();
    let doing = || format!("write {}", file.display());
    let text = CGROUP_NOTE.to_json(&GroupNote { paths }).map_err(|e| e.while_doing(doing()))?;
    private::write(&file, text, private::FILE).doing(doing)
}

/// Reads the note. Returns nothing if it is missing or incomplete, because then no directory was created yet.
///
/// # Errors
/// `Unsupported` when another release wrote it.
pub fn noted_group(layout: &Layout) -> Result<BTreeMap<String, PathBuf>> {
    let text = std::fs::read(layout.cgroup()).unwrap_or_default();
    match decode(&text) {
        Err(error) if error.is_of_another_release() => {
            Err(error.while_doing(format!("read {}", layout.cgroup().display())))
        }
        other => Ok(other.unwrap_or_default()),
    }
}

fn decode(text: &[u8]) -> Result<BTreeMap<String, PathBuf>, Unreadable> {
    match CGROUP_NOTE.json_version(text)? {
        // Version 1 was the bare list.
        1 => CGROUP_NOTE.from_json(text),
        _ => CGROUP_NOTE.from_json::<GroupNote<_>>(text).map(|note| note.paths),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::golden;

    #[test]
    fn golden_notes() {
        let paths = BTreeMap::from([(String::new(), PathBuf::from("/sys/fs/cgroup/a"))]);
        let written = CGROUP_NOTE.to_json(&GroupNote { paths: &paths }).unwrap();
        assert_eq!(decode(&written), Ok(paths.clone()));
        golden::check("src/record/golden", "cgroup", CGROUP_NOTE, &[("one", written)]);
        assert_eq!(decode(br#"{"":"/sys/fs/cgroup/a"}"#), Ok(paths), "version 1");
        let error = decode(br#"{"version":7,"anything":{}}"#).unwrap_err();
        assert!(error.to_string().contains("version 7 of the note of a container's cgroup"), "{error}");
        assert!(decode(b"{\"version\":2").is_err());
    }
}
