//! Import policy: containers-policy.json(5) and containerd's verifier programs, applied once the reference is resolved
//! to an image and before anything is unpacked.
//!
//! Of the requirements in policy.json, `insecureAcceptAnything`, `reject` and `sigstoreSigned` with static keys are
//! supported. An image with any other requirement is refused.

mod cosign;
mod identity;
mod verifiers;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::image::Descriptor;
use serde::Deserialize;
use serde_json::Value;

use super::document::digest_of;
use super::registry::Repository;
use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::store::reference::Reference;
use cosign::Signed;

/// The default paths of the policy; the first that exists is used.
const PLACES: [&str; 2] = ["/etc/coracle/policy.json", "/etc/containers/policy.json"];

/// The sources of the policy.
#[derive(Debug, Clone)]
pub struct PolicyOptions {
    /// The policy.json to use instead of the default ones. Without any, every image is accepted.
    pub file: Option<PathBuf>,
    /// The directory of verifier programs (containerd's `bin_dir`); all of them must accept.
    pub verifiers: PathBuf,
}

impl Default for PolicyOptions {
    fn default() -> Self {
        Self { file: None, verifiers: "/opt/containerd/image-verifier/bin".into() }
    }
}

/// The rules for one reference.
#[derive(Debug)]
pub(super) struct Rules {
    path: PathBuf,
    requirements: Vec<Requirement>,
    verifiers: Vec<PathBuf>,
}

#[derive(Debug)]
enum Requirement {
    Accept,
    Reject,
    Signed(Signed),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    default: Vec<Value>,
    #[serde(default)]
    transports: BTreeMap<String, BTreeMap<String, Vec<Value>>>,
}

impl Rules {
    /// Reads the rules for `reference`.
    ///
    /// # Errors
    /// `Invalid` or `Unsupported` when the policy cannot be parsed: then no image is accepted.
    pub(super) fn read(options: &PolicyOptions, reference: &Reference) -> Result<Self> {
        let usual = || PLACES.map(PathBuf::from).into_iter().find(|path| path.exists());
        let verifiers = verifiers::find(&options.verifiers)?;
        match options.file.clone().or_else(usual) {
            None => Ok(Self { path: PathBuf::new(), requirements: vec![Requirement::Accept], verifiers }),
            Some(path) => {
                let text = std::fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
                let requirements = parse(&text, &path, reference)
                    .map_err(|error| error.doing(format!("read {}", path.display())))?;
                Ok(Self { path, requirements, verifiers })
            }
        }
    }

    /// Returns whether every image is accepted without a check.
    pub(super) fn accept_all(&self) -> bool {
        self.verifiers.is_empty() && self.requirements.iter().all(|one| matches!(one, Requirement::Accept))
    }

    /// Checks the image with this `manifest`; `top` is the document that `reference` means and that leads to it. Either
    /// may be signed. All requirements must be met.
    ///
    /// # Errors
    /// `Denied` when the image is refused, else when the signatures could not be downloaded.
    pub(super) fn check(
        &self,
        reference: &Reference,
        top: &Descriptor,
        manifest: Digest,
        at: &Repository<'_>,
    ) -> Result<()> {
        let mut digests = vec![digest_of(top)?, manifest];
        digests.dedup();
        for requirement in &self.requirements {
            match requirement {
                Requirement::Accept => Ok(()),
                Requirement::Reject => Err(Error::new(Kind::Denied, "the policy rejects it")),
                Requirement::Signed(signed) => signed.check(reference, &digests, at),
            }
            .map_err(|error| error.doing(format!("apply {}", self.path.display())))?;
        }
        verifiers::ask(&self.verifiers, reference, top)
    }

    /// Like [`Self::check`], with the requirements that need no request to the registry.
    pub(super) fn check_early(&self) -> Result<()> {
        if self.requirements.iter().any(|one| matches!(one, Requirement::Reject)) {
            let doing = format!("the policy in {} rejects it", self.path.display());
            return Err(Error::new(Kind::Denied, doing));
        }
        Ok(())
    }
}

fn parse(text: &str, path: &Path, reference: &Reference) -> Result<Vec<Requirement>> {
    let file: File = serde_json::from_str(text).doing(|| "parse the policy")?;
    let docker = file.transports.get("docker");
    let scoped = scopes(reference).into_iter().find_map(|scope| docker?.get(&scope));
    let requirements = scoped.unwrap_or(&file.default);
    if requirements.is_empty() {
        return Err(Error::invalid(
            "a list of requirements is empty; use insecureAcceptAnything to accept all",
        ));
    }
    requirements.iter().map(|value| requirement(value, path)).collect()
}

/// The scopes of a reference, the narrowest first.
fn scopes(reference: &Reference) -> Vec<String> {
    let mut name = format!("{}/{}", reference.registry(), reference.path());
    let mut scopes = vec![match (reference.digest(), reference.tag()) {
        (Some(digest), _) => format!("{name}@{digest}"),
        (None, tag) => format!("{name}:{}", tag.unwrap_or_default()),
    }];
    while let Some(at) = name.rfind('/') {
        scopes.push(name.clone());
        name.truncate(at);
    }
    scopes.push(name.clone());
    let mut domain = name.as_str();
    while let Some((_, parent)) = domain.split_once('.') {
        scopes.push(format!("*.{parent}"));
        domain = parent;
    }
    scopes.push(String::new());
    scopes
}

fn requirement(value: &Value, path: &Path) -> Result<Requirement> {
    match value["type"].as_str().unwrap_or_default() {
        "insecureAcceptAnything" => Ok(Requirement::Accept),
        "reject" => Ok(Requirement::Reject),
        "sigstoreSigned" => Signed::read(value, path).map(Requirement::Signed),
        other => {
            Err(Error::new(Kind::Unsupported, format!("requirements of type {other:?} are not supported"))
                .hint("coracle supports insecureAcceptAnything, reject and sigstoreSigned with keyPath"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
        "default": [{"type": "reject"}],
        "transports": {"docker": {
            "ghcr.io/a": [{"type": "insecureAcceptAnything"}],
            "ghcr.io/a/b:1": [{"type": "signedBy", "keyType": "GPGKeys"}],
            "*.corp.example": [{"type": "insecureAcceptAnything"}],
            "empty.example": []
        }}}"#;

    fn rules(image: &str) -> Result<Vec<Requirement>> {
        parse(FILE, Path::new("p"), &Reference::parse(image).unwrap())
    }

    #[test]
    fn the_narrowest_scope_is_used() {
        assert!(matches!(rules("ghcr.io/a/b:2").unwrap()[..], [Requirement::Accept]));
        assert!(matches!(rules("ghcr.io/ab/b:2").unwrap()[..], [Requirement::Reject]));
        assert!(matches!(rules("x.y.corp.example/b").unwrap()[..], [Requirement::Accept]));
        assert!(matches!(rules("corp.example/b").unwrap()[..], [Requirement::Reject]));
        assert_eq!(rules("ghcr.io/a/b:1").unwrap_err().kind(), Kind::Unsupported);
        assert_eq!(rules("empty.example/b").unwrap_err().kind(), Kind::Invalid);
    }

    #[test]
    fn unsupported_requirements_refuse_every_image() {
        let reference = Reference::parse("x").unwrap();
        for bad in ["", "{}", r#"{"default": [{}]}"#, r#"{"default": [{"type": "reject"}], "more": 1}"#] {
            assert!(parse(bad, Path::new("p"), &reference).is_err(), "{bad}");
        }
    }
}
