//! Finds the endpoints for a reference, in order: from containerd's hosts.toml, K3s' registries.yaml, or
//! registries.conf of containers/image, in this order of precedence, else the registry itself.

use std::path::Path;

use super::endpoint::{Endpoint, Tls, is_loopback};
use super::file::{certificates, own_base};
use super::{RegistryOptions, hosts_toml, k3s, registries_conf};
use crate::error::Result;
use crate::store::reference::Reference;

/// The directories where docker and podman keep certificates, one subdirectory per registry.
const CERT_DIRS: [&str; 2] = ["/etc/containers/certs.d", "/etc/docker/certs.d"];

/// The endpoints for `reference`, in the order of trying.
///
/// # Errors
/// `Invalid` when a file cannot be parsed, `Denied` when the registry is blocked.
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
                endpoint.or_plain &= !verify;
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

/// The registry itself, and its plain HTTP form for a loopback host or if that was requested.
pub(super) fn own(reference: &Reference, tls_verify: Option<bool>) -> Result<Vec<Endpoint>> {
    let registry = reference.registry();
    let mut endpoint = Endpoint::at(own_base(registry)?, reference.path(), true);
    endpoint.or_plain = tls_verify.map_or_else(|| is_loopback(registry), |verify| !verify);
    Ok(vec![endpoint])
}
