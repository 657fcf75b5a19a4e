//! The registries.yaml of K3s and RKE2, from which they only generate the hosts.toml files of their own containerd.
//!
//! The rules are those of K3s's `pkg/agent/containerd/config.go` with containerd's `core/remotes/docker/config`:
//! - A registry has an entry if `mirrors` lists endpoints for it or `configs` has an `auth` or `tls` for it. The name alone
//!   is no entry (K3s writes no file for it).
//! - A registry without an entry has the endpoints of `"*"`, and as TLS settings of its default endpoint those of `"*"`.
//! - The default endpoint comes last: the registry itself. On a loopback address it may use plain HTTP.
//! - The `configs` of an endpoint are those of its own host and port. The `auth` of `"*"` is sent nowhere, as containerd
//!   sends it nowhere: whoever chooses an image's name would choose the host that gets it.

mod ignored;

use std::path::{Path, PathBuf};

use regex::Regex;
use yaml_rust2::Yaml;

use super::endpoint::{Base, Endpoint, Tls, is_loopback, is_repository, port_of};
use super::file::{malformed, own_base, read};
use super::login::Login;
use crate::error::Result;
use crate::store::reference::Reference;

pub use ignored::ignored;

const HUB: &str = "docker.io";
const HUB_HOST: &str = "registry-1.docker.io";

/// The endpoints that the file at `path` configures for the registry of `reference`; `None` without a configuration.
pub(super) fn endpoints(path: &Path, reference: &Reference) -> Result<Option<Vec<Endpoint>>> {
    match read(path)? {
        Some(text) => parse(&text, path, reference),
        None => Ok(None),
    }
}

/// The login that the file at `path` has for a host with its port.
pub(super) fn login(path: &Path, host: &str) -> Result<Option<Login>> {
    let Some(text) = read(path)? else { return Ok(None) };
    let root = crate::yaml::load_as_text(&text).map_err(|error| malformed(path, error))?;
    File::of(&root, path)?.login(host)
}

fn parse(text: &str, path: &Path, reference: &Reference) -> Result<Option<Vec<Endpoint>>> {
    let root = crate::yaml::load_as_text(text).map_err(|error| malformed(path, error))?;
    let file = File::of(&root, path)?;
    let registry = reference.registry();
    for key in [registry, "*"] {
        let found = file.entry(key, reference)?;
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// A map of the file, or nothing.
#[derive(Clone, Copy)]
struct Section<'a> {
    map: &'a Yaml,
    path: &'a Path,
}

impl<'a> Section<'a> {
    /// The map below `key`; an absent one and a null are empty.
    fn of(parent: &'a Yaml, key: &str, path: &'a Path) -> Result<Self> {
        match &parent[key] {
            map @ (Yaml::Hash(_) | Yaml::Null | Yaml::BadValue) => Ok(Self { map, path }),
            _ => Err(malformed(path, format!("{key} is not a map"))),
        }
    }

    fn section(&self, key: &str) -> Result<Self> {
        Self::of(self.map, key, self.path)
    }

    /// The text below `key`, unless it is empty.
    fn text(&self, key: &str) -> Result<Option<&'a str>> {
        match &self.map[key] {
            Yaml::String(text) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Yaml::Null | Yaml::BadValue => Ok(None),
            _ => Err(malformed(self.path, format!("{key} is not a text"))),
        }
    }

    fn list(&self, key: &str) -> Result<&'a [Yaml]> {
        match &self.map[key] {
            Yaml::Array(list) => Ok(list),
            Yaml::Null | Yaml::BadValue => Ok(&[]),
            _ => Err(malformed(self.path, format!("{key} is not a list"))),
        }
    }

    /// A truth value of YAML 1.1, which K3s reads.
    fn truth(&self, key: &str) -> Result<bool> {
        match self.text(key)?.unwrap_or("false").to_ascii_lowercase().as_str() {
            "true" | "yes" | "on" | "y" => Ok(true),
            "false" | "no" | "off" | "n" => Ok(false),
            _ => Err(malformed(self.path, format!("{key} is neither true nor false"))),
        }
    }

    fn is_given(&self) -> bool {
        matches!(self.map, Yaml::Hash(_))
    }
}

struct File<'a> {
    mirrors: Section<'a>,
    configs: Section<'a>,
    path: &'a Path,
}

impl<'a> File<'a> {
    fn of(root: &'a Yaml, path: &'a Path) -> Result<Self> {
        if !matches!(root, Yaml::Hash(_) | Yaml::Null) {
            return Err(malformed(path, "it is not a map"));
        }
        let section = |name: &str| Section::of(root, name, path);
        Ok(Self { mirrors: section("mirrors")?, configs: section("configs")?, path })
    }
}

impl File<'_> {
    /// The endpoints of the entry `key`, which is a registry or `*`; `None` where K3s would not write a file for it.
    fn entry(&self, key: &str, reference: &Reference) -> Result<Option<Vec<Endpoint>>> {
        let mirrors = self.mirrors.section(key)?;
        let mut last = self.default(key, reference)?;
        let mut is_entry = self.config(key)?.is_some();
        let mut endpoints: Vec<Endpoint> = Vec::new();
        let addresses = mirrors.list("endpoint")?;
        for (number, address) in addresses.iter().enumerate() {
            let Some(endpoint) = self.endpoint(address, mirrors, reference)? else { continue };
            if endpoints.iter().any(|known| known.base == endpoint.base) {
                continue;
            }
            if number + 1 == addresses.len() && key != "*" && is_default(&endpoint.base, &last) {
                is_entry |= endpoint.repository != last.repository;
                last.repository = endpoint.repository;
                continue;
            }
            is_entry = true;
            endpoints.push(endpoint);
        }
        if !is_entry {
            return Ok(None);
        }
        let is_last = |known: &Endpoint| known.base == last.base && known.repository == last.repository;
        if !endpoints.iter().any(is_last) {
            endpoints.push(last);
        }
        Ok(Some(endpoints))
    }

    /// The registry itself, as the entry `key` configures it.
    fn default(&self, key: &str, reference: &Reference) -> Result<Endpoint> {
        let registry = reference.registry();
        let mut last = Endpoint::at(own_base(registry)?, reference.path(), true);
        last.or_plain = is_loopback(registry);
        // K3s documents that a registry named below `configs`, with or without settings, does not get those of `"*"`.
        let is_excluded = key == "*" && !self.configs.map[registry].is_badvalue();
        if let Some(config) = self.config(key)?.filter(|_| !is_excluded) {
            last.tls = tls(config)?;
        }
        last.login = self.login(&last.base.authority)?;
        Ok(last)
    }

    /// A mirror; `None` for an address that is none, of which K3s warns too.
    fn endpoint(
        &self,
        address: &Yaml,
        mirrors: Section<'_>,
        reference: &Reference,
    ) -> Result<Option<Endpoint>> {
        let Some(address) = address.as_str() else {
            return Err(malformed(self.path, "an endpoint is not a text"));
        };
        let Ok(base) = base_of(address) else {
            // Without a name and a password before the host.
            let shown = address.rsplit('@').next().unwrap_or(address);
            let path = self.path.display();
            crate::log::warning(&format!("{path}: {shown:?} is not an address of a registry; it is ignored"));
            return Ok(None);
        };
        let registry = reference.registry();
        let is_own = base.authority == own_base(registry)?.authority;
        let repository = self.rewrite(mirrors, reference.path())?;
        let mut endpoint = Endpoint::at(base, &repository, is_own);
        endpoint.namespace = (!is_own).then(|| registry.to_owned());
        if let Some(config) = self.config(&endpoint.base.authority)? {
            endpoint.tls = tls(config)?;
        }
        endpoint.login = self.login(&endpoint.base.authority)?;
        Ok(Some(endpoint))
    }

    /// The `auth` or `tls` configured for a host with its port, if there is either.
    fn config(&self, host: &str) -> Result<Option<Section<'_>>> {
        let names = if matches!(host, HUB | HUB_HOST) { [HUB_HOST, HUB] } else { [host, host] };
        for name in names {
            let config = self.configs.section(name)?;
            if config.section("auth")?.is_given() || config.section("tls")?.is_given() {
                return Ok(Some(config));
            }
        }
        Ok(None)
    }

    /// The login for a host, in the order in which containerd takes its parts.
    fn login(&self, host: &str) -> Result<Option<Login>> {
        let Some(config) = self.config(host)? else { return Ok(None) };
        let auth = config.section("auth")?;
        if let Some(username) = auth.text("username")? {
            let password = auth.text("password")?.unwrap_or_default().to_owned();
            return Ok(Some(Login::Password { username: username.to_owned(), password }));
        }
        if let Some(token) = auth.text("identity_token")? {
            return Ok(Some(Login::Identity(token.to_owned())));
        }
        let Some(encoded) = auth.text("auth")? else { return Ok(None) };
        let wrong = || malformed(self.path, "an auth is not base64 of name:password");
        Login::of_encoded(encoded).map(Some).ok_or_else(wrong)
    }

    /// The repository's name on a mirror: the first pattern that changes it is used.
    fn rewrite(&self, mirrors: Section<'_>, repository: &str) -> Result<String> {
        for (pattern, replacement) in mirrors.section("rewrite")?.map.as_hash().into_iter().flatten() {
            let (Some(pattern), Some(replacement)) = (pattern.as_str(), replacement.as_str()) else {
                return Err(malformed(self.path, "a rewrite is not a pattern and a text"));
            };
            let regex = Regex::new(pattern).map_err(|error| malformed(self.path, error))?;
            let there = regex.replace_all(repository, replacement).into_owned();
            if there != repository {
                let why = || malformed(self.path, format!("a rewrite makes {there:?} of {repository:?}"));
                return if is_repository(&there) { Ok(there) } else { Err(why()) };
            }
        }
        Ok(repository.to_owned())
    }
}

/// The base of an endpoint's address. Without a scheme, a loopback host with a port of its own uses plain HTTP. An address
/// with a path already points to the API.
fn base_of(address: &str) -> Result<Base> {
    let has_scheme = address.contains("://");
    let authority = address.split('/').next().unwrap_or(address);
    let is_plain = is_loopback(authority) && !matches!(port_of(authority), None | Some("443"));
    let mut base = match has_scheme || is_plain {
        true => Base::parse(address)?,
        false => Base::parse(&format!("https://{address}"))?,
    };
    if base.authority == HUB {
        HUB_HOST.clone_into(&mut base.authority);
    }
    Ok(if matches!(base.path.as_str(), "" | "/v2") { base.with_api() } else { base })
}

/// Whether a base is what K3s takes for the default endpoint of a registry: on a loopback host the plain one.
fn is_default(base: &Base, last: &Endpoint) -> bool {
    let is_plain = last.or_plain && !matches!(port_of(&last.base.authority), None | Some("443"));
    *base == Base { secure: !is_plain, ..last.base.clone() }
}

fn tls(config: Section<'_>) -> Result<Tls> {
    let tls = config.section("tls")?;
    let file = |key: &str| Ok(tls.text(key)?.map(PathBuf::from));
    let client = match (file("cert_file")?, file("key_file")?) {
        // The key may be in the file of the certificate.
        (Some(cert), key) => Some((cert.clone(), key.unwrap_or(cert))),
        (None, Some(_)) => return Err(malformed(tls.path, "there is a key_file without a cert_file")),
        (None, None) => None,
    };
    let authorities = file("ca_file")?.into_iter().collect();
    Ok(Tls { authorities, client, trusts_all: tls.truth("insecure_skip_verify")? })
}

#[cfg(test)]
mod tests;
