//! Logins: they are found, used, and leave for no other host than theirs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use coracle::error::Kind;
use coracle::image::registry::Login;

use super::image_fixture::{Layout, image};
use super::pull_fixture::{Place, place};
use super::support::registry::{Auth, Fault, TestRegistry};

fn logged_in(login: &str) -> Place {
    let mut place = place();
    place.options.registry.login = Some(Login::parse(login).unwrap());
    place
}

/// Fails if anything that proves who we are reached this registry.
#[track_caller]
fn assert_told_nothing(registry: &TestRegistry) {
    for seen in registry.seen() {
        assert!(!seen.headers.contains_key("authorization"), "{seen:?}");
        assert!(!seen.body.contains("secret") && !seen.path.contains("secret"), "{seen:?}");
    }
}

#[test]
fn basic_and_bearer_logins_open_the_door() {
    let registry = TestRegistry::start();
    registry.small("app:1");
    let name = registry.name("app:1");
    for auth in [Auth::Basic("joe:secret"), Auth::Bearer { realm: None, login: Some("joe:secret") }] {
        registry.require(auth);
        logged_in("joe:secret").pulled(&name);
        let error = logged_in("joe:wrong").refused(&name, Kind::Denied, "401");
        assert!(
            error.first_hint().unwrap().contains("--creds") || error.chain().contains("token"),
            "{error:?}"
        );
    }
    registry.require(Auth::Basic("joe:secret"));
    place().refused(&name, Kind::Denied, "authentication required");
    registry.require(Auth::Bearer { realm: None, login: None });
    place().pulled(&name);
}

#[test]
fn a_token_is_asked_for_with_service_and_scope_and_used_again() {
    let (place, registry) = (place(), TestRegistry::start());
    registry.small("app:1");
    registry.require(Auth::Bearer { realm: None, login: None });
    place.pulled(&registry.name("app:1"));
    let seen = registry.seen();
    let tokens: Vec<_> = seen.iter().filter(|s| s.path.starts_with("/token")).collect();
    assert_eq!(tokens[0].path, "/token?service=the%2C%20test&scope=repository%3Ax%3Apull");
    assert!(tokens.len() < seen.len() / 2, "{seen:?}");
}

#[test]
fn the_files_of_podman_and_docker_are_read_identity_tokens_and_helpers_included() {
    let registry = TestRegistry::start();
    registry.small("ns/app:1");
    let (name, host) = (registry.name("ns/app:1"), registry.host());
    let place = place();
    registry.require(Auth::Basic("joe:secret"));
    place.write("auth.json", &format!(r#"{{"auths": {{"{host}/ns": {{"auth": "am9lOnNlY3JldA=="}}}}}}"#));
    place.pulled(&name);
    let place = super::pull_fixture::place();
    registry.require(Auth::Bearer { realm: None, login: Some("refresh:long-lived") });
    place.write("auth.json", &format!(r#"{{"auths": {{"{host}": {{"identitytoken": "long-lived"}}}}}}"#));
    place.pulled(&name);
    place.write("auth.json", r#"{"credHelpers": {"x": "../../bin/sh"}, "credsStore": "no-such-helper"}"#);
    place.pull(&registry.name("ns/app:2")).unwrap_err();
}

#[test]
fn a_redirect_takes_no_login_along() {
    let (registry, store) = (TestRegistry::start(), TestRegistry::start());
    let (layer, data) = registry.big("app:1", 100_000);
    store.big("app:1", 100_000);
    let moved = vec![("Location", format!("{}/v2/app/blobs/{layer}?sig=x", store.url()))];
    registry.require(Auth::Basic("joe:secret"));
    registry.fault(&layer, 2, Fault::Status(307, moved));
    // The store's address is good for one read only: to go on, the registry is asked again.
    store.fault(&layer, 1, Fault::Cut(30_000));
    let place = logged_in("joe:secret");
    let image = place.pulled(&registry.name("app:1"));
    assert!(place.read(&image, "data").unwrap() == data);
    assert_eq!(store.count(&layer), 2);
    assert_told_nothing(&store);
    // A store that wants a login is told none either.
    store.require(Auth::Basic("joe:secret"));
    let moved = vec![("Location", format!("{}/v2/app/blobs/{layer}", store.url()))];
    registry.fault(&layer, 99, Fault::Status(302, moved));
    logged_in("joe:secret").refused(&registry.name("app:1"), Kind::Denied, "401");
    assert_told_nothing(&store);
}

#[test]
fn a_token_server_on_a_strange_host_gets_no_login() {
    let (registry, other) = (TestRegistry::start(), TestRegistry::start_at("127.0.0.2"));
    registry.small("app:1");
    registry.require(Auth::Bearer { realm: Some(format!("{}/token", other.url())), login: None });
    logged_in("joe:secret").refused(&registry.name("app:1"), Kind::Denied, "is not sent to 127.0.0.2");
    assert_told_nothing(&other);
    // Without a login there is nothing to lose.
    place().pull(&registry.name("app:1")).unwrap_err();
    assert!(other.count("/token") > 0);
}

#[test]
fn a_mirror_gets_no_login_of_the_registry() {
    let (registry, mirror) = (TestRegistry::start(), TestRegistry::start());
    registry.small("app:1");
    registry.require(Auth::Basic("joe:secret"));
    mirror.require(Auth::Basic("joe:secret"));
    let place = logged_in("joe:secret");
    let hosts = format!("server = \"{}\"\n[host.\"{}\"]\n", registry.url(), mirror.url());
    place.write(&format!("certs.d/{}/hosts.toml", registry.host()), &hosts);
    place.pulled(&registry.name("app:1"));
    assert!(mirror.count("/v2/") > 0, "it was asked");
    assert_told_nothing(&mirror);
}

#[test]
fn cve_2020_15157_the_address_of_a_foreign_layer_gets_no_login() {
    let (registry, other) = (TestRegistry::start(), TestRegistry::start());
    let mut layout = Layout::of(image("app"));
    let layer = layout.layer(1).replace("blobs/sha256/", "sha256:");
    let url = format!("{}/v2/x/blobs/{layer}", other.url());
    layout.edit_manifest(|manifest| manifest["layers"][1]["urls"] = vec![url].into());
    registry.layout(&layout, "app:1");
    registry.require(Auth::Basic("joe:secret"));
    registry.remove_blob(&layer);
    other.layout(&layout, "x:1");
    let place = logged_in("joe:secret");
    let pulled = place.pulled(&registry.name("app:1"));
    assert_eq!(place.read(&pulled, "bin/app").unwrap(), b"#!/bin/app");
    assert_told_nothing(&other);
    other.require(Auth::Basic("joe:secret"));
    logged_in("joe:secret").refused(&registry.name("app:1"), Kind::Denied, "401");
    assert_told_nothing(&other);
}
