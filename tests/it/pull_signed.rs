//! Policies and signatures: what must not come in does not, and nothing of it is unpacked.

use std::os::unix::fs::PermissionsExt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle::error::Kind;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use super::pull_fixture::{Place, place};
use super::support::registry::{Fault, TestRegistry};

/// A key that signs as cosign does.
struct Signer {
    pair: EcdsaKeyPair,
    random: SystemRandom,
}

impl Signer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap();
        Self { pair, random }
    }

    fn pem(&self) -> String {
        let head = STANDARD.decode("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgA=").unwrap();
        let der = [&head[..], self.pair.public_key().as_ref()].concat();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der))
    }

    /// The manifest of a signature for `digest` under `name`, its payload put on the registry.
    fn sign(&self, registry: &TestRegistry, name: &str, digest: &str) -> Value {
        let payload = json!({"critical": {
            "identity": {"docker-reference": name},
            "image": {"docker-manifest-digest": digest},
            "type": "cosign container image signature"}, "optional": null});
        let payload = payload.to_string();
        let signature = self.pair.sign(&self.random, payload.as_bytes()).unwrap();
        let config = registry.put_blob(b"{}");
        json!({"schemaVersion": 2, "mediaType": MANIFEST,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 2},
            "layers": [{
                "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
                "digest": registry.put_blob(payload.as_bytes()),
                "size": payload.len(),
                "annotations": {"dev.cosignproject.cosign/signature": STANDARD.encode(signature.as_ref())}}]})
    }
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn wanting(signer: &Signer) -> Place {
    let place = place();
    place.write("cosign.pub", &signer.pem());
    let policy = json!({"default": [{"type": "reject"}], "transports": {"docker": {"": [
        {"type": "sigstoreSigned", "keyPath": "cosign.pub", "signedIdentity": {"type": "matchRepository"}}]}}});
    place.write("policy.json", &policy.to_string());
    place
}

fn tag_of(digest: &str) -> String {
    format!("{}.sig", digest.replace(':', "-"))
}

fn put(registry: &TestRegistry, tag: &str, manifest: &Value) -> String {
    registry.put_manifest("app", tag, MANIFEST, serde_json::to_vec(manifest).unwrap())
}

fn digest_of(registry: &TestRegistry) -> String {
    let layout = registry.small("app:1");
    layout.index["manifests"][0]["digest"].as_str().unwrap().to_owned()
}

#[test]
fn a_signature_under_the_tag_or_among_the_referrers_lets_the_image_in() {
    let (registry, signer) = (TestRegistry::start(), Signer::new());
    let digest = digest_of(&registry);
    let name = registry.name("app:1");
    wanting(&signer).refused(&name, Kind::Denied, "has no signature");
    let signature = signer.sign(&registry, &registry.name("app"), &digest);
    put(&registry, &tag_of(&digest), &signature);
    let place = wanting(&signer);
    place.pulled(&name);
    assert!(place.pull(&name).unwrap().was_here);
    let other = TestRegistry::start();
    let digest = digest_of(&other);
    let signature = signer.sign(&other, &other.name("app"), &digest);
    let signature = put(&other, "signature", &signature);
    let referrers = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{"mediaType": MANIFEST, "digest": signature, "size": 1,
            "artifactType": "application/vnd.dev.cosign.artifact.sig.v1+json"}]});
    let bytes = serde_json::to_vec(&referrers).unwrap();
    other.put_manifest(
        "app",
        &format!("referrers/{digest}"),
        "application/vnd.oci.image.index.v1+json",
        bytes,
    );
    wanting(&signer).pulled(&other.name("app:1"));
}

#[test]
fn signatures_by_others_for_others_or_spoilt_ones_do_not() {
    let (registry, signer) = (TestRegistry::start(), Signer::new());
    let digest = digest_of(&registry);
    let (name, own) = (registry.name("app:1"), registry.name("app"));
    let tag = tag_of(&digest);
    let refused = |manifest: &Value, words: &str| {
        put(&registry, &tag, manifest);
        registry.forget();
        wanting(&signer).refused(&name, Kind::Denied, words);
        assert_eq!(registry.count(&registry_layer(&registry)), 0, "nothing is unpacked before");
    };
    refused(&Signer::new().sign(&registry, &own, &digest), "another key");
    let other = format!("sha256:{}", "7".repeat(64));
    refused(&signer.sign(&registry, &own, &other), "another image");
    refused(&signer.sign(&registry, "ghcr.io/a/b", &digest), "for the name");
    let mut spoilt = signer.sign(&registry, &own, &digest);
    spoilt["layers"][0]["annotations"] = json!({"dev.cosignproject.cosign/signature": "AAAA"});
    refused(&spoilt, "another key");
    let mut exchanged = signer.sign(&registry, &own, &other);
    exchanged["layers"][0]["digest"] = signer.sign(&registry, &own, &digest)["layers"][0]["digest"].clone();
    refused(&exchanged, "another key");
}

fn registry_layer(registry: &TestRegistry) -> String {
    registry.small("app:1").layer(0).replace("blobs/sha256/", "sha256:")
}

#[test]
fn what_the_policy_rejects_or_does_not_understand_is_not_even_asked_for() {
    let registry = TestRegistry::start();
    registry.small("app:1");
    for (policy, kind, words) in [
        (r#"{"default": [{"type": "reject"}]}"#, Kind::Denied, "rejects"),
        (r#"{"default": [{"type": "signedBy"}]}"#, Kind::Unsupported, "signedBy"),
        (r#"{"default": [{"type": "sigstoreSigned"}]}"#, Kind::Unsupported, "static key"),
        (r#"{"default": [{"type": "sigstoreSigned", "keyPath": "none"}]}"#, Kind::NotFound, "none"),
        ("{", Kind::Invalid, "policy"),
    ] {
        let place = place();
        place.write("policy.json", policy);
        place.refused(&registry.name("app:1"), kind, words);
    }
    assert!(registry.seen().is_empty());
}

#[test]
fn every_verifier_program_has_a_veto() {
    let registry = TestRegistry::start();
    let digest = digest_of(&registry);
    let name = registry.name("app:1");
    let place = place();
    let verifier = |file: &str, script: &str| {
        place.write(&format!("verifiers/{file}"), &format!("#!/bin/sh\n{script}\n"));
        let path = place.dir.path().join("verifiers").join(file);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    let log = place.dir.path().join("log");
    verifier("a", &format!("echo \"$@\" > {0}; cat >> {0}", log.display()));
    verifier("b", "echo not today; exit 1");
    place.write("verifiers/readme", "no program");
    place.refused(&name, Kind::Denied, "not today");
    verifier("b", "exit 0");
    place.pulled(&name);
    let said = std::fs::read_to_string(log).unwrap();
    let args =
        format!("-name {name} -digest {digest} -stdin-media-type application/vnd.oci.descriptor.v1+json");
    assert!(said.starts_with(&args) && said.contains("\"size\":"), "{said}");
}

#[test]
fn a_signature_that_cannot_be_got_is_no_missing_one() {
    let (registry, signer) = (TestRegistry::start(), Signer::new());
    digest_of(&registry);
    registry.fault(".sig", 99, Fault::Status(503, vec![]));
    wanting(&signer).refused(&registry.name("app:1"), Kind::Unreachable, "503");
}
