//! Logins for registries: from the command line, else from the files of docker, podman and skopeo.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use serde::{Deserialize, Deserializer};

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

    /// Decodes the base64 of `name:password`, the form in the files. Line breaks in it, as of `base64 <file`, and missing
    /// padding are no obstacle.
    pub fn of_encoded(text: &str) -> Option<Self> {
        let bytes = LENIENT.decode(text.split_whitespace().collect::<String>()).ok()?;
        // docker pads with NUL bytes.
        let text = String::from_utf8(bytes).ok()?;
        Self::parse(text.trim_end_matches('\0')).ok()
    }

    /// The value of a Basic `Authorization` header.
    pub(super) fn basic(username: &str, password: &str) -> String {
        format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
    }
}

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Null is empty everywhere in the file, as for docker and podman, whose parser makes no difference.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct File {
    #[serde(deserialize_with = "or_empty")]
    auths: BTreeMap<String, Option<Entry>>,
    #[serde(deserialize_with = "or_empty")]
    cred_helpers: BTreeMap<String, Option<String>>,
    creds_store: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Entry {
    #[serde(deserialize_with = "or_empty")]
    auth: String,
    #[serde(deserialize_with = "or_empty")]
    username: String,
    #[serde(deserialize_with = "or_empty")]
    password: String,
    #[serde(deserialize_with = "or_empty")]
    identitytoken: String,
    #[serde(deserialize_with = "or_empty")]
    registrytoken: String,
}

fn or_empty<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
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
    let file = match text.trim() {
        // Some tools make the file before they have a login.
        "" | "null" => File::default(),
        text => serde_json::from_str(text).map_err(|error| malformed(path, error))?,
    };
    let host = plain_host(authority);
    let mut wanted = format!("{host}/{repository}");
    loop {
        let helper = file.cred_helpers.iter().find(|(key, _)| normal(key) == wanted);
        if let Some((key, Some(name))) =
            helper.filter(|(_, name)| name.as_ref().is_some_and(|n| !n.is_empty()))
        {
            return credential_program::get(name, key);
        }
        let mut entries = file.auths.iter().filter(|(key, _)| normal(key) == wanted);
        if let Some(login) = entries.find_map(|(_, entry)| entry.as_ref()?.login()) {
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
    format!("{}{rest}", plain_host(&host.to_ascii_lowercase()))
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
    fn nulls_and_odd_forms_in_files_are_read_as_docker_and_podman_read_them() {
        let read = |text: &str| of_file(text, Path::new("f"), "r.example", "x");
        for nothing in [
            "",
            " \n",
            "null",
            "{}",
            r#"{"auths": null}"#,
            r#"{"auths": {"r.example": null}}"#,
            r#"{"auths": {"r.example": {"auth": null}}, "credHelpers": null, "credsStore": null}"#,
            r#"{"auths": {"r.example": {"auth": "", "email": 7}}, "credHelpers": {"r.example": null}, "credsStore": ""}"#,
        ] {
            assert_eq!(read(nothing).unwrap(), None, "{nothing}");
        }
        for found in [
            r#"{"auths": {"r.example": {"auth": "dTpw", "identitytoken": null}}}"#,
            r#"{"auths": {"https://R.example/v2/": {"auth": "dTpw"}}, "credsStore": null}"#,
            r#"{"auths": {"r.example/": {"auth": " dTpw\n"}}}"#,
            r#"{"auths": {"http://r.example": null, "r.example": {"auth": "dTpw"}}}"#,
        ] {
            assert_eq!(read(found).unwrap(), password("u", "p"), "{found}");
        }
        assert_eq!(Login::of_encoded("dTpwdw"), password("u", "pw"), "without padding");
        assert_eq!(Login::of_encoded("dTpw\ndw==\n"), password("u", "pw"), "in two lines");
        for bad in ["{", "x", r#"{"auths": {"r.example": {"auth": 1}}}"#, r#"{"auths": []}"#] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn credentials_are_not_shown() {
        assert_eq!(format!("{:?}", Login::parse("joe:secret").unwrap()), "Password(..)");
        assert!(Login::parse("joe").is_err() && Login::parse(":x").is_err());
    }
}
