//! Common code for the configuration files of registries: reading, errors, and directories of certificates.

use std::path::{Path, PathBuf};

use super::endpoint::{Base, Tls};
use crate::error::{Doing, Error, Kind, Result};
use crate::store::reference::Reference;

/// The largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The base address of the registry `registry`.
pub(super) fn own_base(registry: &str) -> Result<Base> {
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    Base::parse(&format!("https://{host}")).map(Base::with_api)
}

/// The certificates in `dir` in docker's form: `*.crt` to trust, `*.cert` with `*.key` as client certificate.
pub(super) fn certificates(dir: &Path) -> Result<Tls> {
    let doing = || format!("read {}", dir.display());
    let mut names: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir).doing(doing)? {
        names.push(entry.doing(doing)?.path());
    }
    names.sort();
    let ends = |path: &&PathBuf, end: &str| path.extension().is_some_and(|e| e == end);
    let mut tls = Tls {
        authorities: names.iter().filter(|path| ends(path, "crt")).cloned().collect(),
        ..Tls::default()
    };
    if let Some(cert) = names.iter().find(|path| ends(path, "cert")) {
        let key = cert.with_extension("key");
        if !key.exists() {
            let doing = format!("{} has no key beside it", cert.display());
            return Err(Error::invalid(doing).hint(format!("{} is missing", key.display())));
        }
        tls.client = Some((cert.clone(), key));
    }
    Ok(tls)
}

/// Reads a small text file, without the byte order mark that some editors put first; `None` when it does not exist.
pub(super) fn read(path: &Path) -> Result<Option<String>> {
    use std::io::Read;
    let doing = || format!("read {}", path.display());
    let file = match std::fs::File::open(path) {
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            return Ok(None);
        }
        other => other.doing(doing)?,
    };
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).doing(doing)?;
    if text.len() as u64 > MAX_FILE {
        return Err(Error::invalid(format!("{} is bigger than {MAX_FILE} bytes", path.display())));
    }
    Ok(Some(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text)))
}

/// The error for a malformed file.
pub(super) fn malformed(path: &Path, why: impl std::fmt::Display) -> Error {
    let why: String = why.to_string().trim().replace('\n', " ").chars().take(300).collect();
    Error::invalid(format!("read {}: {why}", path.display()))
}

/// The error for a blocked registry.
pub(super) fn blocked(path: &Path, reference: &Reference) -> Error {
    Error::new(Kind::Denied, format!("registry {} is blocked by {}", reference.registry(), path.display()))
}
