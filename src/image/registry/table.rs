//! From a reference to the endpoints to ask, in order: what containerd's hosts.toml, K3s' registries.yaml, or
//! registries.conf of containers/image says, in this order of precedence, else the registry itself.

use std::path::{Path, PathBuf};

use super::endpoint::{Base, Endpoint, Tls, is_loopback};
use super::{RegistryOptions, hosts_toml, k3s, registries_conf};
use crate::error::{Doing, Error, Kind, Result};
use crate::store::reference::Reference;

/// Where docker and podman keep certificates, one directory per registry.
const CERT_DIRS: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// The largest configuration file that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// The endpoints for `reference`, the one to ask first at the front.
///
/// # Errors
/// `Invalid` when a file cannot be understood, `Denied` when the registry is blocked.
pub(super) fn endpoints(options: &RegistryOptions, reference: &Reference) -> Result<Vec<Endpoint>> {
    let mut endpoints = match configured(options, reference)? {
        Some(endpoints) => endpoints,
        None => own(reference, options.tls_verify)?,
    };
    for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.base.secure) {
        if endpoint.tls == Tls::default() {
            let dirs = CERT_DIRS.map(|dir| Path::new(dir).join(&endpoint.base.authority));
            if let Some(dir) = dirs.iter().find(|dir| dir.is_dir()) {
                endpoint.tls = certificates(dir)?;
            }
        }
        if endpoint.is_own {
            if let Some(dir) = &options.cert_dir {
                endpoint.tls = Tls { trusts_all: endpoint.tls.trusts_all, ..certificates(dir)? };
            }
            if let Some(verify) = options.tls_verify {
                endpoint.tls.trusts_all = !verify;
            }
        }
    }
    Ok(endpoints)
}

fn configured(options: &RegistryOptions, reference: &Reference) -> Result<Option<Vec<Endpoint>>> {
    for dir in &options.hosts_dirs {
        if let Some(found) = hosts_toml::endpoints(dir, reference)? {
            return Ok(Some(found));
        }
    }
    if let Some(found) = k3s::endpoints(&options.k3s_registries, reference)? {
        return Ok(Some(found));
    }
    registries_conf::endpoints(&options.registries_conf, reference)
}

/// The registry itself, in plain HTTP too where that is nobody else's business or was asked for.
pub(super) fn own(reference: &Reference, tls_verify: Option<bool>) -> Result<Vec<Endpoint>> {
    let registry = reference.registry();
    let mut endpoint = Endpoint::at(own_base(registry)?, reference.path(), true);
    endpoint.or_plain = tls_verify.map_or_else(|| is_loopback(registry), |verify| !verify);
    Ok(vec![endpoint])
}

/// Where the registry called `registry` is.
pub(super) fn own_base(registry: &str) -> Result<Base> {
    let host = if registry == "docker.io" { "registry-1.docker.io" } else { registry };
    Base::parse(&format!("https://{host}")).map(Base::with_api)
}

/// The certificates in `dir` in docker's form: `*.crt` to trust, `*.cert` with `*.key` to show.
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

/// A small text file; `None` when it does not exist.
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
    Ok(Some(text))
}

/// The error for a file that is not what it should be.
pub(super) fn malformed(path: &Path, why: impl std::fmt::Display) -> Error {
    let why: String = why.to_string().trim().replace('\n', " ").chars().take(300).collect();
    Error::invalid(format!("read {}: {why}", path.display()))
}

/// The error for a registry that must not be used.
pub(super) fn blocked(path: &Path, reference: &Reference) -> Error {
    Error::new(Kind::Denied, format!("registry {} is blocked by {}", reference.registry(), path.display()))
}
