//! Logins for registries: from the command line, else from the files of docker, podman and skopeo.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::credential_program;
use super::file::{malformed, read};
use super::login::Login;
use crate::error::{Error, Result};

impl Login {
    /// Parses `name:password`, the form of `--creds`.
    ///
    /// # Errors
    /// `Invalid` without a colon or a name.
    pub fn parse(text: &str) -> Result<Self> {
        match text.split_once(':') {
            Some((username, password)) if !username.is_empty() => {
                Ok(Self::Password { username: username.to_owned(), password: password.to_owned() })
            }
            _ => Err(Error::invalid("credentials have the form name:password")),
        }
    }

    /// Decodes the base64 of `name:password`, the form in the files.
    pub fn of_encoded(text: &str) -> Option<Self> {
        let bytes = STANDARD.decode(text.trim()).ok()?;
        // docker pads with NUL bytes.
        let text = String::from_utf8(bytes).ok()?;
        Self::parse(text.trim_end_matches('\0')).ok()
    }

    /// The value of a Basic `Authorization` header.
    pub(super) fn basic(username: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    auths: BTreeMap<String, Entry>,
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

impl Entry {
    fn login(&self) -> Option<Login> {
        if !self.registrytoken.is_empty() {
            return Some(Login::Bearer(self.registrytoken.clone()));
        }
        if !self.identitytoken.is_empty() {
            return Some(Login::Identity(self.identitytoken.clone()));
        }
        if !self.username.is_empty() {
            return Some(Login::Password {
                username: self.username.clone(),
                password: self.password.clone(),
            });
        }
        Login::of_encoded(&self.auth)
    }
}

/// The login for `repository` at `authority` (a host with its port), from `chosen` or else the usual files.
///
/// # Errors
/// When `chosen` does not exist, or a file or a credential helper fails.
pub(super) fn find(chosen: Option<&Path>, authority: &str, repository: &str) -> Result<Option<Login>> {
    let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = chosen.map(Path::to_owned).or_else(|| env("REGISTRY_AUTH_FILE")) {
        return match read(&path)? {
            Some(text) => of_file(&text, &path, authority, repository),
            None => Err(malformed(&path, "the file does not exist")),
        };
    }
    let home = env("HOME");
    let in_home = |path: &str| home.as_ref().map(|home| home.join(path));
    let places = [
        env("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        Some(format!("/run/containers/{}/auth.json", rustix::process::geteuid().as_raw()).into()),
        env("XDG_CONFIG_HOME").map(|dir| dir.join("containers/auth.json")),
        in_home(".config/containers/auth.json"),
        env("DOCKER_CONFIG").map(|dir| dir.join("config.json")).or_else(|| in_home(".docker/config.json")),
    ];
    for path in places.into_iter().flatten() {
        if let Some(text) = read(&path)?
            && let Some(login) = of_file(&text, &path, authority, repository)?
        {
            return Ok(Some(login));
        }
    }
    Ok(None)
}

/// The login of the longest key that is a prefix of `authority/repository`.
fn of_file(text: &str, path: &Path, authority: &str, repository: &str) -> Result<Option<Login>> {
    let file: File = serde_json::from_str(text).map_err(|error| malformed(path, error))?;
    let host = plain_host(authority);
    let mut wanted = format!("{host}/{repository}");
    loop {
        if let Some(name) = file.cred_helpers.get(&wanted) {
            return credential_program::get(name, &wanted);
        }
        let entry = file.auths.iter().find(|(key, _)| normal(key) == wanted);
        if let Some(login) = entry.and_then(|(_, entry)| entry.login()) {
            return Ok(Some(login));
        }
        match wanted.rfind('/') {
            Some(at) => wanted.truncate(at),
            None => break,
        }
    }
    match file.creds_store.as_deref().filter(|name| !name.is_empty()) {
        Some(name) if host == "docker.io" => credential_program::get(name, "https://index.docker.io/v1/"),
        Some(name) => credential_program::get(name, &host),
        None => Ok(None),
    }
}

/// The key under which logins for a host are stored.
fn plain_host(authority: &str) -> String {
    match authority {
        "registry-1.docker.io" | "index.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

/// A key without scheme and API version: `https://index.docker.io/v1/` gives `docker.io`.
fn normal(key: &str) -> String {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    let (host, rest) = key.find('/').map_or((key, ""), |at| key.split_at(at));
    format!("{}{rest}", plain_host(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{"auths": {
        "https://index.docker.io/v1/": {"auth": "aHViOmE6Yg=="},
        "quay.io/ns": {"auth": "bnM6cA=="},
        "quay.io": {"auth": "cTpw"},
        "token.example": {"auth": "eDp5", "identitytoken": "t"},
        "empty.example": {}
    }}"#;

    fn login(authority: &str, repository: &str) -> Option<Login> {
        of_file(FILE, Path::new("f"), authority, repository).unwrap()
    }

    fn password(username: &str, password: &str) -> Option<Login> {
        Some(Login::Password { username: username.into(), password: password.into() })
    }

    #[test]
    fn the_longest_key_is_used_and_only_for_its_host() {
        assert_eq!(login("registry-1.docker.io", "library/x"), password("hub", "a:b"));
        assert_eq!(login("quay.io", "ns/x"), password("ns", "p"));
        assert_eq!(login("quay.io", "nsx/x"), password("q", "p"));
        assert_eq!(login("token.example", "x"), Some(Login::Identity("t".into())));
        for other in ["quay.io:444", "a.quay.io", "quay.io.evil.example", "empty.example"] {
            assert_eq!(login(other, "ns/x"), None, "{other}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        assert_eq!(format!("{:?}", Login::parse("joe:secret").unwrap()), "Password(..)");
        assert!(Login::parse("joe").is_err() && Login::parse(":x").is_err());
    }
}
