//! registries.conf(5) of podman, skopeo and CRI-O, version 2. Short names follow docker's rules, not this file's.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::endpoint::{Base, Endpoint, is_repository};
use super::file::{blocked, malformed, own_base, read};
use crate::error::{Error, Result};
use crate::store::reference::Reference;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct File {
    registry: Vec<Registry>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Registry {
    prefix: String,
    location: String,
    insecure: bool,
    blocked: bool,
    mirror_by_digest_only: bool,
    mirror: Vec<Mirror>,
}

#[derive(Debug, Default, Clone, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct Mirror {
    location: String,
    insecure: bool,
    pull_from_mirror: String,
}

/// The endpoints that the file at `path` and those in `<path>.d` configure for `reference`; `None` without a
/// configuration.
pub(super) fn endpoints(path: &Path, reference: &Reference) -> Result<Option<Vec<Endpoint>>> {
    let mut registries = Vec::new();
    for file in files(path) {
        if let Some(text) = read(&file)? {
            registries.extend(parse(&text, &file)?);
        }
    }
    select(&registries, path, reference)
}

/// The file itself, then those of the directory sorted by name; later ones override.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut dir = path.as_os_str().to_owned();
    dir.push(".d");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut more: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "conf")).collect();
    more.sort();
    more.insert(0, path.to_owned());
    more
}

fn parse(text: &str, path: &Path) -> Result<Vec<Registry>> {
    let mut file: File = toml::from_str(text).map_err(|error| malformed(path, error))?;
    for registry in &mut file.registry {
        if registry.prefix.is_empty() {
            registry.prefix.clone_from(&registry.location);
        }
        let is_wild = registry.prefix.starts_with("*.");
        if registry.location.is_empty() && !is_wild {
            registry.location.clone_from(&registry.prefix);
        }
        if registry.prefix.is_empty() {
            return Err(malformed(path, "a registry has neither prefix nor location"));
        }
    }
    Ok(file.registry)
}

fn select(registries: &[Registry], path: &Path, reference: &Reference) -> Result<Option<Vec<Endpoint>>> {
    let name = format!("{}/{}", reference.registry(), reference.path());
    let fits = |registry: &&Registry| rest_of(&registry.prefix, reference, &name).is_some();
    // Of equal prefixes the later one overrides.
    let Some(best) = registries.iter().filter(fits).max_by_key(|registry| registry.prefix.len()) else {
        return Ok(None);
    };
    if best.blocked {
        return Err(blocked(path, reference));
    }
    let rest = rest_of(&best.prefix, reference, &name).unwrap_or_default();
    let by_digest = reference.digest().is_some();
    let mut endpoints = Vec::new();
    for mirror in &best.mirror {
        let is_for = match mirror.pull_from_mirror.as_str() {
            "digest-only" => by_digest,
            "tag-only" => !by_digest,
            _ => by_digest || !best.mirror_by_digest_only,
        };
        if is_for {
            add(&mut endpoints, &format!("{}{rest}", mirror.location), mirror.insecure, reference)?;
        }
    }
    let own = if best.location.is_empty() { name.clone() } else { format!("{}{rest}", best.location) };
    add(&mut endpoints, &own, best.insecure, reference)?;
    Ok(Some(endpoints))
}

/// The rest of the name after `prefix`, if that is a prefix of it by whole parts; a wildcard matches only the host.
fn rest_of(prefix: &str, reference: &Reference, name: &str) -> Option<String> {
    if let Some(domain) = prefix.strip_prefix('*') {
        let fits = reference.registry().ends_with(domain) && reference.registry().len() > domain.len();
        return fits.then(|| format!("/{}", reference.path()));
    }
    let rest = name.strip_prefix(prefix)?;
    let is_whole = rest.is_empty() || rest.starts_with('/');
    is_whole.then(|| rest.to_owned())
}

/// Adds an endpoint; an insecure one may have any certificate, or none.
fn add(endpoints: &mut Vec<Endpoint>, place: &str, insecure: bool, reference: &Reference) -> Result<()> {
    let (host, repository) = place.split_once('/').unwrap_or((place, reference.path()));
    let base = if host == "docker.io" {
        own_base(host)?
    } else {
        Base::parse(&format!("https://{host}"))?.with_api()
    };
    if !is_repository(repository) {
        return Err(Error::invalid(format!(
            "{place:?} in registries.conf is not a location of a repository"
        )));
    }
    let is_own = base.authority == own_base(reference.registry())?.authority;
    let mut endpoint = Endpoint::at(base, repository, is_own);
    endpoint.tls.trusts_all = insecure;
    endpoint.or_plain = insecure;
    endpoints.push(endpoint);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
unqualified-search-registries = ["quay.io"]
[[registry]]
prefix = "docker.io/library"
location = "hub.example/lib"
[[registry.mirror]]
location = "mirror.example:5000/m"
insecure = true
[[registry.mirror]]
location = "slow.example"
pull-from-mirror = "digest-only"
[[registry]]
location = "bad.example"
blocked = true
[[registry]]
prefix = "*.corp.example"
[[registry.mirror]]
location = "cache.example/corp"
"#;

    fn urls(image: &str) -> Result<Vec<String>> {
        let registries = parse(FILE, Path::new("f"))?;
        let found = select(&registries, Path::new("f"), &Reference::parse(image)?)?;
        Ok(found.unwrap_or_default().iter().map(|e| e.url("")).collect())
    }

    #[test]
    fn the_longest_prefix_is_used_and_replaced() {
        assert_eq!(
            urls("busybox").unwrap(),
            ["https://mirror.example:5000/v2/m/busybox", "https://hub.example/v2/lib/busybox",]
        );
        let digest = crate::digest::Digest::of(b"");
        assert_eq!(urls(&format!("busybox@{digest}")).unwrap()[1], "https://slow.example/v2/busybox");
        assert_eq!(urls("rancher/k3s").unwrap(), [""; 0], "no prefix by half a word");
        assert_eq!(urls("ghcr.io/x").unwrap(), [""; 0]);
        assert_eq!(
            urls("a.corp.example/x/y").unwrap(),
            ["https://cache.example/v2/corp/x/y", "https://a.corp.example/v2/x/y"]
        );
    }

    #[test]
    fn a_blocked_registry_is_denied() {
        assert_eq!(urls("bad.example/x").unwrap_err().kind(), crate::error::Kind::Denied);
        for bad in ["a.example/x y", "a.example/..", "a.example//x", "a.example/x?y"] {
            let registries =
                parse(&format!("[[registry]]\nprefix = \"x.y\"\nlocation = {bad:?}\n"), Path::new("f"));
            let found = select(&registries.unwrap(), Path::new("f"), &Reference::parse("x.y/z").unwrap());
            assert_eq!(found.unwrap_err().kind(), crate::error::Kind::Invalid, "{bad}");
        }
    }
}
