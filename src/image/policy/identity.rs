//! The names that a signature may have (`signedIdentity` in containers-policy.json(5)).

use serde::Deserialize;

use crate::store::reference::Reference;

/// The required relation between the signed name and the pulled name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase", deny_unknown_fields)]
pub(super) enum Identity {
    /// The same name and tag; for an image pulled by digest, the same repository.
    #[default]
    MatchRepoDigestOrExact,
    /// The same name and tag.
    MatchExact,
    /// The same repository, whatever the tag. cosign signs names without a tag.
    MatchRepository,
    /// This name and tag, whatever name is pulled.
    #[serde(rename_all = "camelCase")]
    ExactReference { docker_reference: String },
    /// This repository, whatever name is pulled.
    #[serde(rename_all = "camelCase")]
    ExactRepository { docker_repository: String },
}

impl Identity {
    /// Returns whether a signature for the name `signed` is valid for `pulled`.
    pub(super) fn fits(&self, signed: &str, pulled: &Reference) -> bool {
        let Ok(signed) = Reference::parse(signed) else { return false };
        let is_of = |repository: &Reference| {
            signed.registry() == repository.registry() && signed.path() == repository.path()
        };
        let is_exactly = |name: &Reference| {
            is_of(name) && signed.has_own_tag() && signed.tag() == name.tag() && name.digest().is_none()
        };
        match self {
            Self::MatchRepoDigestOrExact if pulled.digest().is_some() => is_of(pulled),
            Self::MatchRepoDigestOrExact | Self::MatchExact => is_exactly(pulled),
            Self::MatchRepository => is_of(pulled),
            Self::ExactReference { docker_reference } => {
                Reference::parse(docker_reference).is_ok_and(|wanted| is_exactly(&wanted))
            }
            Self::ExactRepository { docker_repository } => {
                Reference::parse(docker_repository).is_ok_and(|wanted| is_of(&wanted))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_for_another_name_does_not_fit() {
        let by = |json: &str| serde_json::from_str::<Identity>(json).unwrap();
        let fits = |identity: &Identity, signed: &str, pulled: &str| {
            identity.fits(signed, &Reference::parse(pulled).unwrap())
        };
        let usual = Identity::default();
        let pinned = format!("r.io/a@{}", crate::digest::Digest::of(b""));
        assert!(fits(&usual, "r.io/a:1", "r.io/a:1") && fits(&usual, "r.io/a", &pinned));
        assert!(!fits(&usual, "r.io/a", "r.io/a:1") && !fits(&usual, "r.io/a", "r.io/a"));
        let repository = by(r#"{"type": "matchRepository"}"#);
        assert!(fits(&repository, "r.io/a", "r.io/a:1") && !fits(&repository, "r.io/b", "r.io/a:1"));
        let exact = by(r#"{"type": "exactRepository", "dockerRepository": "r.io/origin"}"#);
        assert!(fits(&exact, "r.io/origin:2", "mirror/a:1") && !fits(&exact, "r.io/a", "r.io/a"));
        let exact = by(r#"{"type": "exactReference", "dockerReference": "r.io/origin:1"}"#);
        assert!(fits(&exact, "r.io/origin:1", "x") && !fits(&exact, "r.io/origin:2", "x"));
        assert!(serde_json::from_str::<Identity>(r#"{"type": "remapIdentity"}"#).is_err());
    }
}
