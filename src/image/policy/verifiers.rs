//! containerd's image verifiers: programs in a directory, each of which may refuse an image.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use oci_spec::image::Descriptor;

use crate::error::{Doing, Error, Kind, Result};
use crate::image::question;
use crate::store::reference::Reference;

const PATIENCE: Duration = Duration::from_secs(10);

/// The programs in `dir`, sorted by name; none when the directory does not exist.
pub(super) fn find(dir: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("list {}", dir.display());
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.doing(doing)?,
    };
    let mut programs = Vec::new();
    for entry in entries {
        let path = entry.doing(doing)?.path();
        let meta = path.metadata().doing(|| format!("inspect {}", path.display()))?;
        if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            programs.push(path);
        }
    }
    programs.sort();
    Ok(programs)
}

/// Runs every program on the descriptor that the registry returned for `reference`.
pub(super) fn ask(programs: &[PathBuf], reference: &Reference, given: &Descriptor) -> Result<()> {
    let descriptor = serde_json::to_vec(given).doing(|| "write a descriptor")?;
    for program in programs {
        let mut command = Command::new(program);
        command.arg("-name").arg(reference.to_string()).arg("-digest").arg(given.digest().to_string());
        command.args(["-stdin-media-type", "application/vnd.oci.descriptor.v1+json"]);
        let (status, words) = question::ask(&mut command, &descriptor, PATIENCE)?;
        if !status.success() {
            let words: String = words.trim().chars().filter(|c| !c.is_control()).take(300).collect();
            let doing = format!("{} refuses it ({status}): {words}", program.display());
            return Err(Error::new(Kind::Denied, doing));
        }
    }
    Ok(())
}
