//! What a registries.yaml has that nothing here reads, so that nobody waits for its effect.

use std::path::Path;

use yaml_rust2::Yaml;

use super::super::file::{malformed, read};
use crate::error::Result;

/// The keys of the file and of its entries.
const TOP: &[&str] = &["mirrors", "configs"];
const MIRROR: &[&str] = &["endpoint", "rewrite"];
const CONFIG: &[&str] = &["auth", "tls"];
const AUTH: &[&str] = &["username", "password", "auth", "identity_token"];
const TLS: &[&str] = &["ca_file", "cert_file", "key_file", "insecure_skip_verify"];

/// A message for each setting of the file at `path` that has no effect; none if there is no file.
///
/// # Errors
/// The file cannot be read, or is not YAML.
pub fn ignored(path: &Path) -> Result<Vec<String>> {
    let Some(text) = read(path)? else { return Ok(Vec::new()) };
    let root = crate::yaml::load_as_text(&text).map_err(|error| malformed(path, error))?;
    let mut found = unknown(&root, "", TOP);
    for (name, mirror) in entries(&root["mirrors"]) {
        let prefix = format!("mirrors.{name:?}.");
        found.extend(unknown(mirror, &prefix, MIRROR));
        if !has_endpoint(mirror) {
            found.push(format!(
                "mirrors.{name:?} has no endpoint: K3s then shares images between nodes by its embedded registry mirror \
                 (embedded-registry), which works with its own containerd only"
            ));
        }
    }
    for (name, config) in entries(&root["configs"]) {
        let prefix = format!("configs.{name:?}.");
        found.extend(unknown(config, &prefix, CONFIG));
        found.extend(unknown(&config["auth"], &format!("{prefix}auth."), AUTH));
        found.extend(unknown(&config["tls"], &format!("{prefix}tls."), TLS));
        if name == "*" && entries(&config["auth"]).next().is_some() {
            found.push(format!("{prefix}auth is sent to no registry, as containerd sends it to none"));
        }
    }
    Ok(found)
}

fn has_endpoint(mirror: &Yaml) -> bool {
    matches!(&mirror["endpoint"], Yaml::Array(list) if !list.is_empty())
}

fn entries(map: &Yaml) -> impl Iterator<Item = (&str, &Yaml)> {
    map.as_hash().into_iter().flatten().filter_map(|(key, value)| Some((key.as_str()?, value)))
}

fn unknown(map: &Yaml, prefix: &str, known: &[&str]) -> Vec<String> {
    let keys = entries(map).map(|(key, _)| key).filter(|key| !known.contains(key));
    keys.map(|key| format!("{prefix}{key} is not supported")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("registries.yaml");
        std::fs::write(&file, text).unwrap();
        ignored(&file).unwrap()
    }

    #[test]
    fn what_is_read_is_not_reported() {
        let text = "mirrors:\n  docker.io:\n    endpoint: [\"https://m.example\"]\n    rewrite: {\"^a\": b}\n\
                    configs:\n  m.example:\n    auth: {username: u, password: p, auth: a, identity_token: t}\n    \
                    tls: {ca_file: a, cert_file: b, key_file: c, insecure_skip_verify: true}\n";
        assert_eq!(of(text), [""; 0]);
        assert_eq!(of(""), [""; 0]);
        assert_eq!(ignored(Path::new("/no/such/file")).unwrap(), [""; 0]);
    }

    #[test]
    fn each_key_without_an_effect_is_named_with_its_place() {
        let text = "auths: {}\nmirrors:\n  docker.io:\n    endpoints: [x]\n  \"*\":\n\
                    configs:\n  m.example:\n    user: u\n    auth: {token: t}\n    tls: {min_version: \"1.3\"}\n  \
                    \"*\":\n    auth: {username: u}\n";
        let found = of(text);
        for part in [
            "auths is not",
            "mirrors.\"docker.io\".endpoints is not",
            "mirrors.\"docker.io\" has no endpoint",
            "mirrors.\"*\" has no endpoint",
            "configs.\"m.example\".user is not",
            "configs.\"m.example\".auth.token is not",
            "configs.\"m.example\".tls.min_version is not",
            "configs.\"*\".auth is sent to no registry",
        ] {
            assert_eq!(found.iter().filter(|text| text.starts_with(part)).count(), 1, "{part}: {found:?}");
        }
        assert_eq!(found.len(), 8, "{found:?}");
    }
}
