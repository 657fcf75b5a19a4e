//! Image names in docker's form: `[registry/]path[:tag][@digest]`.

use std::fmt;

use crate::digest::Digest;
use crate::error::{Error, Result};

const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A checked, normalised reference: `busybox` is `docker.io/library/busybox:latest`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
    own_tag: bool,
}

impl Reference {
    /// Parses and normalises `text`.
    ///
    /// # Errors
    /// `Invalid` when a part breaks the rules of SPEC(distribution 1.1 #pulling-manifests).
    pub fn parse(text: &str) -> Result<Self> {
        read(text).map_err(|why| {
            let short: String = text.chars().take(100).collect();
            Error::invalid(format!("image name {short:?}: {why}"))
                .hint("a name looks like [registry/]path[:tag], in lower case")
        })
    }

    /// The host of the registry, with its port if it has one.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository on the registry.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; `latest` when the text has neither a tag nor a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which takes precedence over the tag.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Returns whether the text contains the tag, rather than the default.
    pub fn has_own_tag(&self) -> bool {
        self.own_tag
    }
}

fn read(text: &str) -> Result<Reference, String> {
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(Digest::parse(digest).map_err(|e| e.to_string())?)),
        None => (text, None),
    };
    // A colon after the last slash starts the tag; one before it, a port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if is_registry(first) => (first, path.to_owned()),
        _ => (DEFAULT_REGISTRY, name.to_owned()),
    };
    let registry = if registry == "index.docker.io" { DEFAULT_REGISTRY } else { registry };
    let path =
        if registry == DEFAULT_REGISTRY && !path.contains('/') { format!("library/{path}") } else { path };
    check_registry(registry)?;
    check_path(&path)?;
    if registry.len() + 1 + path.len() > MAX_NAME {
        return Err(format!("it is longer than {MAX_NAME} characters"));
    }
    if let Some(tag) = tag {
        check_tag(tag)?;
    } else if digest.is_none() && path.rsplit('/').next().is_some_and(is_whole_id) {
        return Err("64 hex digits are an id, not a name".to_owned());
    }
    let default = digest.is_none().then_some(DEFAULT_TAG);
    Ok(Reference {
        registry: registry.to_owned(),
        path,
        tag: tag.or(default).map(str::to_owned),
        digest,
        own_tag: tag.is_some(),
    })
}

fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn is_whole_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn check_registry(text: &str) -> Result<(), String> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let is_port =
        |port: &str| !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit());
    let is_v6 = host
        .strip_prefix('[')
        .and_then(|h| h.strip_suffix(']'))
        .is_some_and(|h| h.parse::<std::net::Ipv6Addr>().is_ok());
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if (is_v6 || host.split('.').all(is_label)) && port.is_none_or(is_port) {
        return Ok(());
    }
    Err(format!("{text:?} is not the host of a registry"))
}

fn check_path(path: &str) -> Result<(), String> {
    match path.split('/').find(|part| !is_component(part)) {
        Some("") => Err("a part of the path is empty".to_owned()),
        Some(part) => Err(format!("{part:?} cannot be part of a path")),
        None => Ok(()),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let separators =
        part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|s| !s.is_empty());
    part.bytes().all(|b| is_word(b) || b"._-".contains(&b))
        && part.bytes().next().is_some_and(is_word)
        && part.bytes().last().is_some_and(is_word)
        && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), String> {
    let is_good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    if tag.is_empty() || tag.len() > MAX_TAG || !tag.bytes().all(is_good) || tag.starts_with(['.', '-']) {
        return Err(format!("{:?} is no tag", tag.chars().take(40).collect::<String>()));
    }
    Ok(())
}

/// Returns whether `text` can be a tag.
pub fn is_tag(text: &str) -> bool {
    check_tag(text).is_ok()
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_become_full_ones_as_docker_does_it() {
        let digest = Digest::of(b"x");
        for (text, full) in [
            ("busybox", "docker.io/library/busybox:latest".to_owned()),
            ("busybox:1.36", "docker.io/library/busybox:1.36".to_owned()),
            ("docker.io/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("index.docker.io/library/busybox", "docker.io/library/busybox:latest".to_owned()),
            ("rancher/k3s:v1.33.1-k3s1", "docker.io/rancher/k3s:v1.33.1-k3s1".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/a/b__c--d.e:T_1", "localhost:5000/a/b__c--d.e:T_1".to_owned()),
            ("[::1]:5000/app:1", "[::1]:5000/app:1".to_owned()),
            ("ghcr.io/x/y@sha256", String::new()),
            (&format!("ghcr.io/x/y@{digest}"), format!("ghcr.io/x/y@{digest}")),
            (&format!("y:1@{digest}"), format!("docker.io/library/y:1@{digest}")),
        ] {
            match Reference::parse(text) {
                Ok(reference) => assert_eq!(reference.to_string(), full),
                Err(_) => assert!(full.is_empty(), "{text}"),
            }
        }
    }

    #[test]
    fn invalid_references_are_refused() {
        let long = "a".repeat(300);
        let id = "a".repeat(64);
        for bad in [
            "",
            "/",
            ":tag",
            "a:",
            "A/b/C",
            "UPPER",
            "a//b",
            "../etc",
            "a/../b",
            "a b",
            "-a",
            "a-",
            "a___b",
            "a..b",
            "a:.x",
            "a@sha256:12",
            "a\n",
            "é",
            "x.y:port/z",
            &long,
            &id,
        ] {
            assert!(Reference::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_refused_or_names_the_same_when_read_again(text in "[a-zA-Z0-9:/@._ -]{0,40}|\\PC{0,20}") {
            if let Ok(reference) = Reference::parse(&text) {
                let again = Reference::parse(&reference.to_string()).unwrap();
                proptest::prop_assert_eq!(again.to_string(), reference.to_string());
                proptest::prop_assert!(!reference.path().contains("..") && !reference.to_string().contains(' '));
            }
        }
    }
}
