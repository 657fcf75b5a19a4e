//! Signatures made by cosign with a static key: ECDSA over a small JSON text that contains a digest. They are stored
//! beside the image, under a tag made of its digest or among its referrers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::ImageIndex;
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

use super::identity::Identity;
use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::image::registry::Repository;
use crate::store::reference::Reference;

const PAYLOAD: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
const ARTIFACT: &str = "application/vnd.dev.cosign.artifact.sig.v1+json";
const SIGNATURE: &str = "dev.cosignproject.cosign/signature";
/// The most signatures checked for one image.
const MAX_SIGNATURES: usize = 64;
/// The largest signed text, in bytes.
const MAX_PAYLOAD: u64 = 64 << 10;
/// The prefix of the point in the DER form of a P-256 key (RFC 5480).
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A requirement that an image be signed.
#[derive(Debug)]
pub(super) struct Signed {
    /// The accepted keys, one of which must have signed: uncompressed points of P-256.
    keys: Vec<Vec<u8>>,
    identity: Identity,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Written {
    #[serde(rename = "type")]
    _type: String,
    key_path: Option<PathBuf>,
    key_paths: Vec<PathBuf>,
    key_data: Option<String>,
    key_datas: Vec<String>,
    signed_identity: Identity,
}

#[derive(Deserialize)]
struct Manifest {
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layer {
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

impl Signed {
    pub(super) fn read(value: &Value, policy: &Path) -> Result<Self> {
        let written: Written = serde_json::from_value(value.clone()).doing(|| "parse sigstoreSigned")?;
        let mut keys = Vec::new();
        for path in written.key_path.iter().chain(&written.key_paths) {
            let path = policy.parent().unwrap_or(policy).join(path);
            let text = std::fs::read_to_string(&path).doing(|| format!("read {}", path.display()))?;
            keys.push(key_of(&text).map_err(|error| error.doing(format!("read {}", path.display())))?);
        }
        for data in written.key_data.iter().chain(&written.key_datas) {
            let text = STANDARD.decode(data).ok().and_then(|bytes| String::from_utf8(bytes).ok());
            let text =
                text.ok_or_else(|| Error::invalid("keyData is not the base64 of a key in PEM form"))?;
            keys.push(key_of(&text)?);
        }
        if keys.is_empty() {
            return Err(Error::new(
                Kind::Unsupported,
                "sigstoreSigned without a static key is not supported",
            ));
        }
        Ok(Self { keys, identity: written.signed_identity })
    }

    /// Looks for a valid signature of any of `digests`.
    pub(super) fn check(&self, reference: &Reference, digests: &[Digest], at: &Repository<'_>) -> Result<()> {
        let mut whys: Vec<String> = Vec::new();
        for digest in digests {
            for layer in signatures(digest, at)?.iter().take(MAX_SIGNATURES) {
                match self.judge(layer, digest, reference, at) {
                    Ok(()) => return Ok(()),
                    Err(error) if matches!(error.kind(), Kind::Unreachable | Kind::TimedOut) => {
                        return Err(error);
                    }
                    Err(error) => whys.push(error.chain()),
                }
            }
        }
        whys.dedup();
        whys.truncate(3);
        let doing = match whys.is_empty() {
            true => "it has no signature, but one is required".to_owned(),
            false => format!("none of its signatures is valid: {}", whys.join("; ")),
        };
        Err(Error::new(Kind::Denied, doing))
    }

    fn judge(
        &self,
        layer: &Layer,
        digest: &Digest,
        reference: &Reference,
        at: &Repository<'_>,
    ) -> Result<()> {
        if layer.size > MAX_PAYLOAD {
            return Err(Error::invalid("a signed text is too long"));
        }
        let text = layer.annotations.get(SIGNATURE).map_or("", String::as_str);
        let signature = STANDARD.decode(text).map_err(|_| Error::invalid("a signature is not base64"))?;
        let payload = at.small_blob(&layer.digest, layer.size)?;
        let is_by = |key: &Vec<u8>| {
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(&payload, &signature).is_ok()
        };
        if !self.keys.iter().any(is_by) {
            return Err(Error::new(Kind::Denied, "one is by another key"));
        }
        // The payload is trusted only after the signature was verified.
        let payload: Value = serde_json::from_slice(&payload).doing(|| "read what was signed")?;
        let critical = &payload["critical"];
        if critical["type"] != "cosign container image signature" {
            return Err(Error::new(Kind::Denied, "one is not a signature of an image"));
        }
        if critical["image"]["docker-manifest-digest"] != digest.to_string() {
            return Err(Error::new(Kind::Denied, "one is for another image"));
        }
        let name = critical["identity"]["docker-reference"].as_str().unwrap_or_default();
        if !self.identity.fits(name, reference) {
            let name: String = name.chars().filter(|c| !c.is_control()).take(200).collect();
            return Err(Error::new(Kind::Denied, format!("one is for the name {name:?}")));
        }
        Ok(())
    }
}

/// The signatures of `digest`, unverified.
fn signatures(digest: &Digest, at: &Repository<'_>) -> Result<Vec<Layer>> {
    let mut documents = Vec::new();
    match at.tagged(&format!("sha256-{}.sig", digest.hex())) {
        Ok(found) => documents.push(found.bytes),
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => return Err(error),
    }
    if let Some(index) = at.referrers(digest)? {
        let index: ImageIndex = serde_json::from_slice(&index).doing(|| "read the referrers")?;
        let is_ours = |entry: &&oci_spec::image::Descriptor| {
            entry.artifact_type().as_ref().is_some_and(|kind| kind.to_string() == ARTIFACT)
        };
        for entry in index.manifests().iter().filter(is_ours).take(MAX_SIGNATURES) {
            documents.push(at.by_digest(&Digest::parse(entry.digest().as_ref())?)?.bytes);
        }
    }
    let mut layers = Vec::new();
    for document in documents {
        let manifest: Manifest = serde_json::from_slice(&document).doing(|| "read a signature's manifest")?;
        layers.extend(manifest.layers.into_iter().filter(|layer| layer.media_type == PAYLOAD));
    }
    Ok(layers)
}

/// The point of a P-256 key in PEM form, as `cosign generate-key-pair` and openssl(1) write it.
fn key_of(pem: &str) -> Result<Vec<u8>> {
    let body = pem.split_once("-----BEGIN PUBLIC KEY-----").and_then(|(_, rest)| rest.split_once("-----END"));
    let body = body.ok_or_else(|| Error::invalid("it is not a PEM public key"))?.0;
    let base64: String = body.split_whitespace().collect();
    let der = STANDARD.decode(base64).map_err(|_| Error::invalid("the key is not base64"))?;
    match der.strip_prefix(&P256) {
        Some(point) if point.len() == 65 => Ok(point.to_vec()),
        _ => Err(Error::new(Kind::Unsupported, "the key is not an ECDSA one on the curve P-256")),
    }
}
