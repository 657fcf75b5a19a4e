//! `image pull`: what comes in, under which names, and what is refused.

use coracle::error::Kind;
use coracle::image::platform;
use serde_json::json;

use super::image_fixture::{Image, Layout, Pack, image};
use super::pull_fixture::place;
use super::support::registry::{Fault, TestRegistry};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[test]
fn an_image_comes_in_under_its_name_and_a_second_pull_asks_only_what_the_tag_means() {
    let (place, registry) = (place(), TestRegistry::start());
    registry.small("a/app:1");
    let name = registry.name("a/app:1");
    let pulled = place.pull(&name).unwrap();
    let image = &pulled.images[0];
    assert!(!pulled.was_here);
    assert_eq!(image.names, std::slice::from_ref(&name));
    assert_eq!(image.repo_digests, [registry.name(&format!("a/app@{}", pulled.digest))]);
    assert_eq!(place.read(image, "etc/name").unwrap(), b"small");
    assert_eq!(place.read(image, "bin/app").unwrap(), b"#!/bin/app");
    assert!(place.partials().is_empty());
    registry.forget();
    let again = place.pull(&name).unwrap();
    assert!(again.was_here && again.images[0] == *image);
    let seen = registry.seen();
    assert_eq!(seen.iter().map(|s| s.method.as_str()).collect::<Vec<_>>(), ["HEAD"], "{seen:?}");
}

#[test]
fn a_moved_tag_brings_the_new_image_and_only_its_new_layer() {
    let (place, registry) = (place(), TestRegistry::start());
    registry.small("app:1");
    let old = place.pulled(&registry.name("app:1"));
    let mut new = image("small");
    new.layers.push(super::image_fixture::tar(&[super::image_fixture::Member::File("new", b"new")]));
    registry.layout(&Layout::of(new), "app:1");
    registry.forget();
    let image = place.pulled(&registry.name("app:1"));
    assert_eq!(place.read(&image, "new").unwrap(), b"new");
    assert_eq!(registry.count("/blobs/"), 2, "the configuration and the new layer: {:?}", registry.seen());
    assert!(place.store.image(&old.manifest).unwrap().unwrap().names.is_empty());
}

#[test]
fn an_image_pinned_by_its_digest_is_found_by_it_and_keeps_no_tag() {
    let (place, registry) = (place(), TestRegistry::start());
    let layout = registry.small("app:1");
    let digest = layout.index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let name = registry.name(&format!("app:other@{digest}"));
    let image = place.pulled(&name);
    assert!(image.names.is_empty());
    assert_eq!(place.store.find(&name).unwrap(), image);
    registry.forget();
    assert!(place.pull(&name).unwrap().was_here);
    assert!(registry.seen().is_empty(), "a digest means the same for ever");
}

#[test]
fn the_image_for_the_platform_is_chosen_and_the_index_remembered() {
    let (mut place, registry) = (place(), TestRegistry::start());
    let mut layout = Layout::new();
    for (platform, name) in [("linux/s390x", "big"), ("linux/arm/v7", "seven"), ("linux/arm/v6", "six")] {
        layout.add(Image { platform, name: None, ..image(name) });
    }
    let index = registry.layout(&layout, "app:1");
    place.options.platform = Some(platform::parse("arm/v6").unwrap());
    let image = place.pulled(&registry.name("app:1"));
    assert_eq!(place.read(&image, "etc/name").unwrap(), b"six");
    assert_eq!(place.store.find(&registry.name(&format!("app@{index}"))).unwrap(), image);
    let other = super::pull_fixture::place();
    let error = other.refused(&registry.name("app:1"), Kind::NotFound, "no image for");
    assert!(error.chain().contains("linux/s390x"), "{error:?}");
}

#[test]
fn every_platform_comes_in_if_asked_for() {
    let (mut place, registry) = (place(), TestRegistry::start());
    let mut layout = Layout::new();
    let host = platform::host().to_string();
    for (platform, name) in [("linux/s390x", "big"), (host.as_str(), "own")] {
        layout.add(Image { platform, name: None, ..image(name) });
    }
    registry.layout(&layout, "app:1");
    place.options.all_platforms = true;
    let pulled = place.pull(&registry.name("app:1")).unwrap();
    assert_eq!(pulled.images.len(), 2);
    assert_eq!(place.store.find(&registry.name("app:1")).unwrap(), pulled.images[0]);
    assert_eq!(place.read(&pulled.images[0], "etc/name").unwrap(), b"own");
    assert_eq!(place.read(&pulled.images[1], "etc/name").unwrap(), b"big");
    assert_eq!(pulled.images[0].others, [pulled.images[1].manifest]);
    assert!(place.store.prune(false).unwrap().is_empty(), "the name stands for both");
    // One that was alone here gets the others.
    let mut other = super::pull_fixture::place();
    other.pulled(&registry.name("app:1"));
    other.options.all_platforms = true;
    other.pull(&registry.name("app:1")).unwrap();
    assert_eq!(other.store.find(&registry.name("app:1")).unwrap().others.len(), 1);
    assert!(other.pull(&registry.name("app:1")).unwrap().was_here);
}

#[test]
fn indexes_in_indexes_attestations_and_docker_types_are_understood() {
    let (place, registry) = (place(), TestRegistry::start());
    let mut layout = Layout::of(Image { pack: Pack::Zstd, ..image("inner") });
    layout.edit_manifest(|manifest| {
        manifest["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json".into();
        manifest["config"]["mediaType"] = "application/vnd.docker.container.image.v1+json".into();
    });
    layout.entries()[0]["mediaType"] = "application/vnd.docker.distribution.manifest.v2+json".into();
    let attestation = json!({"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 2,
        "digest": super::image_fixture::sha(b"{}"), "platform": {"os": "unknown", "architecture": "unknown"}});
    layout.entries().push(attestation);
    let inner = serde_json::to_vec(&layout.index).unwrap();
    let inner = layout.blob(INDEX, inner);
    registry.layout(
        &Layout {
            index: json!({"schemaVersion": 2, "manifests": [layout.index["manifests"][0]]}),
            ..layout.clone()
        },
        "app:x",
    );
    let bytes = layout.files[&super::image_fixture::path_of(&inner)].clone();
    registry.put_manifest("app", "inner", INDEX, bytes);
    let outer = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [inner]});
    registry.put_manifest("app", "1", INDEX, serde_json::to_vec(&outer).unwrap());
    let image = place.pulled(&registry.name("app:1"));
    assert_eq!(place.read(&image, "etc/name").unwrap(), b"inner");
}

#[test]
fn what_is_no_image_is_refused_by_its_name() {
    let (place, registry) = (place(), TestRegistry::start());
    let put = |tag: &str, media_type: &str, document: serde_json::Value| {
        registry.put_manifest("app", tag, media_type, serde_json::to_vec(&document).unwrap());
    };
    put(
        "old",
        "application/vnd.docker.distribution.manifest.v1+prettyjws",
        json!({"schemaVersion": 1, "fsLayers": []}),
    );
    place.refused(&registry.name("app:old"), Kind::Unsupported, "schema 1");
    let helm = json!({"mediaType": "application/vnd.cncf.helm.config.v1+json", "size": 2,
        "digest": super::image_fixture::sha(b"{}")});
    let manifest = "application/vnd.oci.image.manifest.v1+json";
    put("chart", manifest, json!({"schemaVersion": 2, "config": helm, "layers": []}));
    place.refused(&registry.name("app:chart"), Kind::Unsupported, "helm");
    put("both", manifest, json!({"schemaVersion": 2, "config": helm, "layers": [], "manifests": []}));
    place.refused(&registry.name("app:both"), Kind::Corrupt, "both an index and a manifest");
    registry.put_manifest("app", "huge", manifest, vec![b' '; (4 << 20) + 1]);
    place.refused(&registry.name("app:huge"), Kind::Invalid, "more than");
    place.refused(&registry.name("app:none"), Kind::NotFound, "manifest unknown");
}

#[test]
fn bytes_that_are_not_those_of_the_digest_are_refused_everywhere() {
    let registry = TestRegistry::start();
    let layout = registry.small("app:1");
    let config = layout.json(&layout.index["manifests"][0])["config"]["digest"].as_str().unwrap().to_owned();
    let layer = layout.layer(1).replace("blobs/sha256/", "sha256:");
    let manifest = layout.index["manifests"][0]["digest"].as_str().unwrap();
    for digest in [config.as_str(), layer.as_str()] {
        let place = place();
        let other = registry_bytes(&layout, digest).len();
        registry.fault(digest, 99, Fault::Instead(vec![7; other]));
        place.refused(&registry.name("app:1"), Kind::Corrupt, "");
        registry.heal();
    }
    let place = place();
    registry.fault(manifest, 99, Fault::Instead(b"{}".to_vec()));
    place.refused(&registry.name(&format!("app@{manifest}")), Kind::Corrupt, "damaged");
    registry.heal();
    place.pulled(&registry.name("app:1"));
}

fn registry_bytes(layout: &Layout, digest: &str) -> Vec<u8> {
    layout.files[&format!("blobs/{}", digest.replace(':', "/"))].clone()
}

#[test]
fn a_lie_about_what_is_in_a_blob_is_told_to_no_other_image() {
    let (place, registry) = (place(), TestRegistry::start());
    registry.small("base:1");
    place.pulled(&registry.name("base:1"));
    // Another image's blob is said to hold the base layer, which is here and so is not looked at again.
    let mut other = image("other");
    other.layers[0] = super::image_fixture::tar(&[super::image_fixture::Member::File("mine", b"mine")]);
    let honest = Layout::of(other);
    let mut liar = honest.clone();
    let base = super::image_fixture::sha(&image("small").layers[0]);
    liar.edit_config(|config| config["rootfs"]["diff_ids"][0] = base.into());
    registry.layout(&liar, "liar:1");
    registry.layout(&honest, "honest:1");
    place.pulled(&registry.name("liar:1"));
    let image = place.pulled(&registry.name("honest:1"));
    assert_eq!(place.read(&image, "mine").unwrap(), b"mine");
}

#[test]
fn two_pulls_at_once_get_each_layer_once() {
    let (place, registry) = (place(), TestRegistry::start());
    let layout = registry.small("app:1");
    let name = registry.name("app:1");
    registry.fault("/blobs/", 2, Fault::Drip(64, std::time::Duration::from_millis(5)));
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..3).map(|_| scope.spawn(|| place.pulled(&name))).collect();
        let images: Vec<_> = pulls.into_iter().map(|pull| pull.join().unwrap()).collect();
        assert!(images.iter().all(|image| *image == images[0]));
    });
    for n in 0..2 {
        let layer = layout.layer(n).replace("blobs/sha256/", "");
        assert_eq!(registry.count(&layer), 1, "{:?}", registry.seen());
    }
}
