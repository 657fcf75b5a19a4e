//! `image pull` over links that break: it goes on where it stood, and never takes one byte for another.

use std::time::Duration;

use coracle::error::Kind;
use coracle::image::registry::Timing;

use super::image_fixture::{Image, Layout, Member, Pack, tar};
use super::pull_fixture::{noise, place};
use super::support::registry::{Auth, Fault, TestRegistry};

const BIG: usize = 2 << 20;

#[test]
fn a_transfer_cut_again_and_again_goes_on_where_it_stood() {
    let (place, registry) = (place(), TestRegistry::start());
    let (layer, data) = registry.big("app:1", BIG);
    // More often than anybody would try without progress.
    registry.fault(&layer, 20, Fault::Cut(70_000));
    let image = place.pulled(&registry.name("app:1"));
    assert!(place.read(&image, "data").unwrap() == data);
    let seen = registry.seen();
    let ranges = seen.iter().filter(|s| s.path.contains(&layer)).filter_map(|s| s.headers.get("range"));
    let ranges: Vec<&String> = ranges.collect();
    assert_eq!(ranges.len(), 20);
    assert_eq!(ranges[19], &format!("bytes={}-", 20 * 70_000));
    assert!(place.heard.text().contains("resuming at byte 70000"), "{}", place.heard.text());
    assert!(place.partials().is_empty());
}

#[test]
fn a_registry_without_ranges_sends_all_again_and_the_known_part_is_skipped() {
    let (place, registry) = (place(), TestRegistry::start());
    let (layer, data) = registry.big("app:1", BIG);
    registry.fault(&layer, 1, Fault::Cut(BIG / 2));
    registry.fault(&layer, 1, Fault::WithoutRangesCut(BIG / 2 + 5000));
    registry.fault(&layer, 1, Fault::WithoutRanges);
    let image = place.pulled(&registry.name("app:1"));
    assert!(place.read(&image, "data").unwrap() == data);
}

#[test]
fn without_any_progress_it_gives_up_and_leaves_nothing_but_the_note() {
    let (place, registry) = (place(), TestRegistry::start());
    let (layer, _) = registry.big("app:1", BIG);
    registry.fault(&layer, 99, Fault::WithoutRangesCut(1000));
    let error = place.refused(&registry.name("app:1"), Kind::Unreachable, "without any progress");
    assert!(error.first_hint().unwrap().contains("try again"));
    assert_eq!(registry.count(&layer), 4);
    let partials = place.partials();
    assert!(matches!(partials.as_slice(), [(_, 0)]), "{partials:?}");
    registry.heal();
    place.pulled(&registry.name("app:1"));
    assert!(place.partials().is_empty());
}

#[test]
fn a_stall_ends_by_the_progress_timeout_and_a_slow_drip_does_not() {
    let (place, registry) = (place(), TestRegistry::start());
    let (layer, data) = registry.big("app:1", 300_000);
    registry.fault(&layer, 1, Fault::Stall(100_000));
    // Longer than the timeout in all, but never as long without a byte.
    registry.fault(&layer, 1, Fault::Drip(20_000, Duration::from_millis(60)));
    let image = place.pulled(&registry.name("app:1"));
    assert!(place.read(&image, "data").unwrap() == data);
}

#[test]
fn busy_registries_are_asked_again_when_they_say() {
    let (mut place, registry) = (place(), TestRegistry::start());
    registry.small("app:1");
    place.options.registry.timing = Timing { tries: 3, ..place.options.registry.timing };
    let later = |seconds: &str| Fault::Status(429, vec![("Retry-After", seconds.to_owned())]);
    registry.fault("/manifests/", 1, later("1"));
    registry.fault("/manifests/", 1, Fault::Status(503, vec![]));
    registry.fault("/blobs/", 1, Fault::Status(500, vec![]));
    registry.fault("/blobs/", 1, Fault::HangUp);
    place.pulled(&registry.name("app:1"));
    let other = super::pull_fixture::place();
    registry.fault("/manifests/", 99, later("0"));
    let error = other.refused(&registry.name("app:1"), Kind::Unreachable, "429");
    assert!(error.first_hint().unwrap().contains("limits the rate"), "{error:?}");
}

#[test]
fn a_registry_that_requires_a_long_wait_ends_the_pull_with_its_answer() {
    let (place, registry) = (place(), TestRegistry::start());
    let (layer, _) = registry.big("app:1", BIG);
    for part in ["/manifests/", &layer] {
        registry.fault(part, 99, Fault::Status(429, vec![("Retry-After", "3600".to_owned())]));
        let begin = std::time::Instant::now();
        let error = place.pull(&registry.name("app:1")).unwrap_err();
        assert!(begin.elapsed() < Duration::from_secs(20), "{part}");
        assert!(error.chain().contains("429"), "{error:?}");
        assert!(error.first_hint().unwrap().contains("3600 s (Retry-After)"), "{error:?}");
        registry.heal();
    }
}

#[test]
fn a_refused_range_is_replaced_once_by_the_whole_blob() {
    for status in [400, 405, 416, 418, 501] {
        let (place, registry) = (place(), TestRegistry::start());
        let (layer, data) = registry.big("app:1", BIG);
        registry.fault(&layer, 1, Fault::Cut(BIG / 2));
        registry.fault(&layer, 1, Fault::Status(status, vec![]));
        // The next position is resumed by a range again.
        registry.fault(&layer, 1, Fault::Cut(BIG / 2 + 100_000));
        let image = place.pulled(&registry.name("app:1"));
        assert!(place.read(&image, "data").unwrap() == data);
        let seen = registry.seen();
        let of_layer = seen.iter().filter(|s| s.path.contains(&layer));
        let ranges: Vec<_> = of_layer.map(|s| s.headers.get("range").map(String::as_str)).collect();
        let (first, second) = (BIG / 2, BIG / 2 + 100_000);
        let (first, second) = (format!("bytes={first}-"), format!("bytes={second}-"));
        assert_eq!(ranges, [None, Some(first.as_str()), None, Some(second.as_str())], "{status}");
    }
    let (place, registry) = (place(), TestRegistry::start());
    let (layer, _) = registry.big("app:1", BIG);
    registry.fault(&layer, 1, Fault::Cut(BIG / 2));
    registry.fault(&layer, 99, Fault::Status(400, vec![]));
    place.pull(&registry.name("app:1")).unwrap_err();
    assert_eq!(registry.count(&layer), 3, "it is not asked for ever");
}

#[test]
fn a_truncated_gzip_is_an_error_even_with_the_right_digest() {
    let (place, registry) = (place(), TestRegistry::start());
    let mut layout = Layout::of(Image {
        layers: vec![tar(&[Member::File("data", &noise(50_000))])],
        pack: Pack::Gzip,
        platform: "",
        name: None,
    });
    let whole = layout.files[&layout.layer(0)].clone();
    let short = layout.blob("application/vnd.oci.image.layer.v1.tar+gzip", whole[..whole.len() / 2].to_vec());
    layout.edit_manifest(|manifest| manifest["layers"][0] = short);
    registry.layout(&layout, "app:1");
    place.refused(&registry.name("app:1"), Kind::Corrupt, "ends too early");
}

#[test]
fn an_expired_token_is_renewed_in_the_middle_of_a_layer() {
    let (place, registry) = (place(), TestRegistry::start());
    let (layer, data) = registry.big("app:1", BIG);
    registry.require(Auth::Bearer { realm: None, login: None });
    registry.fault(&layer, 12, Fault::Cut(100_000));
    let image = place.pulled(&registry.name("app:1"));
    assert!(place.read(&image, "data").unwrap() == data);
    assert!(registry.count("/token") >= 3, "a token is good for three requests");
}

#[test]
fn after_a_failed_try_the_next_keeps_what_it_gets_and_the_third_goes_on_there() {
    let (place, registry) = (place(), TestRegistry::start());
    let (layer, data) = registry.big("app:1", BIG);
    let name = registry.name("app:1");
    registry.fault(&layer, 1, Fault::Cut(500_000));
    registry.fault(&layer, 99, Fault::HangUp);
    place.refused(&name, Kind::Unreachable, "");
    registry.heal();
    registry.fault(&layer, 1, Fault::Cut(900_000));
    registry.fault(&layer, 99, Fault::HangUp);
    place.refused(&name, Kind::Unreachable, "");
    assert!(matches!(place.partials().as_slice(), [(_, 900_000)]), "{:?}", place.partials());
    registry.heal();
    registry.forget();
    let image = place.pulled(&name);
    assert!(place.read(&image, "data").unwrap() == data);
    let seen = registry.seen();
    let ranges: Vec<_> =
        seen.iter().filter(|s| s.path.contains(&layer)).map(|s| s.headers.get("range")).collect();
    assert_eq!(ranges, [Some(&"bytes=900000-".to_owned())]);
    assert!(place.partials().is_empty());
}

#[test]
fn what_was_kept_and_is_damaged_is_got_anew() {
    let (place, registry) = (place(), TestRegistry::start());
    let (layer, data) = registry.big("app:1", BIG);
    let path = place.store.root().join("partial").join(layer.strip_prefix("sha256:").unwrap());
    // What a power cut may leave: the right length, and zeros.
    std::fs::write(&path, vec![0; 700_000]).unwrap();
    let image = place.pulled(&registry.name("app:1"));
    assert!(place.read(&image, "data").unwrap() == data);
    assert!(place.heard.text().contains("downloading it again"), "{}", place.heard.text());
    assert!(place.partials().is_empty());
}

#[test]
fn very_large_layers_are_kept_from_the_first_try_on() {
    let (mut place, registry) = (place(), TestRegistry::start());
    place.options.spool_above = 1 << 20;
    let (layer, _) = registry.big("app:1", BIG);
    registry.fault(&layer, 1, Fault::Cut(1_200_000));
    registry.fault(&layer, 99, Fault::HangUp);
    place.refused(&registry.name("app:1"), Kind::Unreachable, "");
    assert!(matches!(place.partials().as_slice(), [(_, 1_200_000)]), "{:?}", place.partials());
}

#[test]
fn the_first_error_of_a_layer_ends_the_others() {
    let (place, registry) = (place(), TestRegistry::start());
    let layers =
        vec![tar(&[Member::File("slow", &noise(400_000))]), tar(&[Member::File("bad", &noise(1000))])];
    let layout = Layout::of(Image { layers, pack: Pack::Gzip, platform: "", name: None });
    registry.layout(&layout, "app:1");
    let digest = |n: usize| layout.layer(n).replace("blobs/sha256/", "sha256:");
    registry.fault(&digest(0), 1, Fault::Drip(1000, Duration::from_millis(20)));
    registry.remove_blob(&digest(1));
    place.refused(&registry.name("app:1"), Kind::NotFound, "blob unknown");
}
