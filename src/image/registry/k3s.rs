//! The registries.yaml of K3s and RKE2, which they use only to configure their own containerd.

use std::path::{Path, PathBuf};

use regex::Regex;
use yaml_rust2::Yaml;

use super::endpoint::{Base, Endpoint, Tls, is_repository};
use super::file::{malformed, own_base, read};
use super::login::Login;
use crate::error::Result;
use crate::store::reference::Reference;

/// The endpoints that the file at `path` configures for the registry of `reference`; `None` without a configuration.
pub(super) fn endpoints(path: &Path, reference: &Reference) -> Result<Option<Vec<Endpoint>>> {
    match read(path)? {
        Some(text) => parse(&text, path, reference),
        None => Ok(None),
    }
}

fn parse(text: &str, path: &Path, reference: &Reference) -> Result<Option<Vec<Endpoint>>> {
    let root = match crate::yaml::load(text).map_err(|error| malformed(path, error))? {
        Yaml::Null => return Ok(None),
        root => root,
    };
    let file = File { root: &root, path };
    let registry = reference.registry();
    let own = own_base(registry)?;
    let mirrors = file.entry("mirrors", registry);
    if mirrors.is_badvalue() && file.config(registry, &own.authority).is_badvalue() {
        return Ok(None);
    }
    let mut endpoints = Vec::new();
    for address in strings(&mirrors["endpoint"]) {
        let base = Base::parse(address)?;
        // An address with a path already points to the API.
        let base = if matches!(base.path.as_str(), "" | "/v2") { base.with_api() } else { base };
        let is_own = base.authority == own.authority;
        let mut endpoint = Endpoint::at(base, &file.rewrite(&mirrors["rewrite"], reference.path())?, is_own);
        endpoint.namespace = (!is_own).then(|| registry.to_owned());
        file.configure(&mut endpoint, registry)?;
        endpoints.push(endpoint);
    }
    let is_listed = |endpoint: &Endpoint| endpoint.base == own && endpoint.repository == reference.path();
    if !endpoints.iter().any(is_listed) {
        let mut last = Endpoint::at(own, reference.path(), true);
        file.configure(&mut last, registry)?;
        endpoints.push(last);
    }
    Ok(Some(endpoints))
}

struct File<'a> {
    root: &'a Yaml,
    path: &'a Path,
}

impl File<'_> {
    /// The entry of a section for a host, or for every host.
    fn entry(&self, section: &str, host: &str) -> &Yaml {
        let section = &self.root[section];
        let own = &section[host];
        if own.is_badvalue() { &section["*"] } else { own }
    }

    fn config(&self, registry: &str, authority: &str) -> &Yaml {
        let by_host = &self.root["configs"][authority];
        if by_host.is_badvalue() && authority == "registry-1.docker.io" && registry == "docker.io" {
            return self.entry("configs", registry);
        }
        self.entry("configs", authority)
    }

    fn configure(&self, endpoint: &mut Endpoint, registry: &str) -> Result<()> {
        let config = self.config(registry, &endpoint.base.authority);
        let tls = &config["tls"];
        let file = |key: &str| tls[key].as_str().filter(|name| !name.is_empty()).map(PathBuf::from);
        endpoint.tls = Tls {
            authorities: file("ca_file").into_iter().collect(),
            client: file("cert_file").zip(file("key_file")),
            trusts_all: tls["insecure_skip_verify"].as_bool().unwrap_or(false),
        };
        let auth = &config["auth"];
        let text = |key: &str| auth[key].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        endpoint.login = if let Some(token) = text("identity_token") {
            Some(Login::Identity(token))
        } else if let Some((username, password)) = text("username").zip(text("password")) {
            Some(Login::Password { username, password })
        } else if let Some(encoded) = text("auth") {
            let login = Login::of_encoded(&encoded);
            Some(login.ok_or_else(|| malformed(self.path, "an auth is not base64 of name:password"))?)
        } else {
            None
        };
        Ok(())
    }

    /// The repository's name on a mirror: the first matching pattern is replaced.
    fn rewrite(&self, rules: &Yaml, repository: &str) -> Result<String> {
        for (pattern, replacement) in rules.as_hash().into_iter().flatten() {
            let (Some(pattern), Some(replacement)) = (pattern.as_str(), replacement.as_str()) else {
                return Err(malformed(self.path, "a rewrite is not a pattern and a text"));
            };
            let regex = Regex::new(pattern).map_err(|error| malformed(self.path, error))?;
            if regex.is_match(repository) {
                let there = regex.replace_all(repository, replacement).into_owned();
                let why = || malformed(self.path, format!("a rewrite makes {there:?} of {repository:?}"));
                return if is_repository(&there) { Ok(there) } else { Err(why()) };
            }
        }
        Ok(repository.to_owned())
    }
}

fn strings(list: &Yaml) -> impl Iterator<Item = &str> {
    list.as_vec().into_iter().flatten().filter_map(Yaml::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint:
      - "https://hub.example:5000"
      - "http://other.example/v2/proxy"
    rewrite:
      "^library/(.*)": "mirrored/$1"
  "*":
    endpoint: ["https://all.example"]
configs:
  "hub.example:5000":
    auth: {username: joe, password: "p:w"}
    tls: {ca_file: /ca.pem, insecure_skip_verify: true}
  docker.io:
    auth: {auth: am9lOmh1Yg==}
"#;

    fn found(image: &str) -> Vec<Endpoint> {
        parse(FILE, Path::new("f"), &Reference::parse(image).unwrap()).unwrap().unwrap()
    }

    #[test]
    fn mirrors_are_rewritten_and_the_registry_itself_comes_last_and_is_not() {
        let urls: Vec<String> = found("busybox").iter().map(|e| e.url("")).collect();
        assert_eq!(
            urls,
            [
                "https://hub.example:5000/v2/mirrored/busybox?ns=docker.io",
                "http://other.example/v2/proxy/mirrored/busybox?ns=docker.io",
                "https://registry-1.docker.io/v2/library/busybox",
            ]
        );
        let hub = &found("busybox")[0];
        assert_eq!(hub.login, Some(Login::Password { username: "joe".into(), password: "p:w".into() }));
        assert!(hub.tls.trusts_all && hub.tls.authorities == [PathBuf::from("/ca.pem")]);
        let own = found("busybox")[2].clone();
        assert_eq!(own.login, Some(Login::Password { username: "joe".into(), password: "hub".into() }));
        assert!(found("busybox")[1].login.is_none(), "no login of another host");
    }

    #[test]
    fn the_wildcard_is_for_registries_that_have_no_entry() {
        let urls: Vec<String> = found("ghcr.io/a/b").iter().map(|e| e.url("")).collect();
        assert_eq!(urls, ["https://all.example/v2/a/b?ns=ghcr.io", "https://ghcr.io/v2/a/b"]);
        let reference = Reference::parse("x.y/z").unwrap();
        assert!(parse("{}", Path::new("f"), &reference).unwrap().is_none());
        assert!(parse("a: [", Path::new("f"), &reference).is_err());
        let bad = "mirrors: {x.y: {endpoint: [\"http://a\"], rewrite: {\"(\": \"b\"}}}";
        assert!(parse(bad, Path::new("f"), &reference).is_err());
        // Found by fuzzing: a tab in the resulting URL.
        for to in ["a\tb", "a b", "../z", "a?x", "a#", "", "a//b"] {
            let bad = format!("mirrors: {{x.y: {{endpoint: [\"http://a\"], rewrite: {{z: {to:?}}}}}}}");
            assert!(parse(&bad, Path::new("f"), &reference).is_err(), "{to:?}");
        }
    }
}
