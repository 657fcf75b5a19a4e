//! The directories of a container's cgroup, before it has a record that says so.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Layout;
use crate::error::{Doing, Result};
use crate::linux::private;

/// Notes which directories will be made.
///
/// # Errors
/// The file cannot be written.
pub fn note_group(layout: &Layout, paths: &BTreeMap<String, PathBuf>) -> Result<()> {
    let file = layout.cgroup();
    let doing = || format!("write {}", file.display());
    private::write(&file, serde_json::to_vec(paths).doing(doing)?, private::FILE).doing(doing)
}

/// What was noted; nothing where the note is missing or torn, for then no directory was made yet.
pub fn noted_group(layout: &Layout) -> BTreeMap<String, PathBuf> {
    let text = std::fs::read(layout.cgroup()).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}
