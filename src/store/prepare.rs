//! The directories of a store: created once, checked at every open.

use std::fs::Permissions;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use crate::error::{Doing, Error, Kind, Result};
use crate::linux::private;

use super::journal::{self, sync_dir};

/// The version of the store's format.
const VERSION: &str = "1\n";

/// What a store has below its root.
pub const PARTS: [&str; 8] =
    ["VERSION", "journal", "blobs/sha256", "partial", "layers", "containers", "tmp", "trash"];

/// Creates the directories of a store, or checks existing ones.
pub(super) fn prepare(root: &Path) -> Result<()> {
    let version = root.join("VERSION");
    match std::fs::read_to_string(&version) {
        Ok(text) if text == VERSION => return check_owner(root),
        // A power cut right after the file was created leaves it empty, or full of zeros.
        Ok(text) if text.bytes().all(|byte| byte == 0) => {}
        // The two bytes may be damaged like any others; the journal shows the format too.
        Ok(_) if journal::is_known(&root.join("journal")) => {}
        Err(error) if error.kind() == ErrorKind::InvalidData && journal::is_known(&root.join("journal")) => {}
        Ok(text) => {
            let doing =
                format!("the store has format {:?}, this program supports {:?}", text.trim(), VERSION.trim());
            return Err(Error::new(Kind::Unsupported, doing)
                .hint("use the program that wrote it, or another --store"));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error).doing(|| format!("read {}", version.display())),
    }
    let make =
        |path: &Path| private::make_dirs(path, private::DIR).doing(|| format!("make {}", path.display()));
    make(root)?;
    check_owner(root)?;
    for dir in PARTS.into_iter().filter(|part| !["VERSION", "journal"].contains(part)) {
        make(&root.join(dir))?;
    }
    // Written last, so that a store with a version is complete; two processes may both write it.
    let fresh = root.join(format!("tmp/VERSION-{}", std::process::id()));
    private::create(&fresh, private::FILE)
        .and_then(|mut file| {
            std::io::Write::write_all(&mut file, VERSION.as_bytes())?;
            file.sync_all()
        })
        .and_then(|()| std::fs::rename(&fresh, &version))
        .doing(|| format!("write {}", version.display()))?;
    sync_dir(root)
}

/// Whether there is a store, which is checked and not changed.
pub(super) fn is_there(root: &Path) -> Result<bool> {
    let doing = || format!("read {}", root.display());
    let meta = match root.metadata() {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        other => other.doing(doing)?,
    };
    if !meta.is_dir() {
        let error = Error::invalid(format!("{}: it is not a directory", doing()));
        return Err(error.hint("move it away, or correct `store` in the configuration"));
    }
    let has = |name: &str| root.join(name).symlink_metadata().is_ok();
    if !has("VERSION") && !has("journal") && !has("layers") {
        return Ok(false);
    }
    let version = private::read_named(&root.join("VERSION"), 100).unwrap_or_default();
    let is_known = version == VERSION.as_bytes() || journal::is_known(&root.join("journal"));
    // A damaged journal is reported as such.
    if !is_known && !version.iter().all(|byte| *byte == 0) {
        let doing = format!(
            "the store has format {:?}, this program supports {:?}",
            String::from_utf8_lossy(&version).trim(),
            VERSION.trim()
        );
        return Err(
            Error::new(Kind::Unsupported, doing).hint("use the program that wrote it, or another --store")
        );
    }
    if !root.join("layers").is_dir() {
        return Err(Error::new(Kind::Corrupt, format!("{} is missing", root.join("layers").display()))
            .hint("`coracle image repair` fetches the layers again"));
    }
    Ok(true)
}

/// The root must belong to this user and be closed to others.
fn check_owner(root: &Path) -> Result<()> {
    let doing = || format!("check {}", root.display());
    let meta = root.metadata().doing(doing)?;
    let us = rustix::process::geteuid().as_raw();
    if meta.uid() != us {
        let doing = format!("{} belongs to user {}, not to {us}", root.display(), meta.uid());
        return Err(Error::new(Kind::Denied, doing));
    }
    if meta.mode() & 0o7777 == 0o700 {
        return Ok(());
    }
    std::fs::set_permissions(root, Permissions::from_mode(0o700)).doing(doing)
}
