//! Logins: they are found, used, and leave for no other host than theirs.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use coracle::error::Kind;
use coracle::image::registry::Login;

use super::image_fixture::{Layout, image};
use super::pull_fixture::{Place, place};
use super::support::registry::{Auth, Fault, TestRegistry};
use super::support::{Run, Runtime};

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

/// The `Authorization` headers that requests to the API of a registry had, in their order.
fn shown(registry: &TestRegistry) -> Vec<Option<String>> {
    let seen = registry.seen();
    let api = seen.iter().filter(|seen| seen.path.starts_with("/v2/"));
    api.map(|seen| seen.headers.get("authorization").cloned()).collect()
}

#[test]
fn a_host_that_a_redirect_leads_to_gets_a_token_of_its_own() {
    let (front, back) = (TestRegistry::start(), TestRegistry::start_at("127.0.0.2"));
    front.small("app:1");
    back.small("app:1");
    let joe = Some("joe:secret");
    for auth in [
        Auth::Open,
        Auth::Basic("joe:secret"),
        Auth::Bearer { realm: None, login: None },
        Auth::Bearer { realm: None, login: joe },
    ] {
        front.require(auth);
        back.require(Auth::Bearer { realm: None, login: None });
        front.fault("/v2/", 99, Fault::MovedTo(back.url()));
        back.forget();
        logged_in("joe:secret").pulled(&front.name("app:1"));
        let shown = shown(&back);
        assert_eq!(shown[0], None, "nothing of the first host goes along");
        assert_eq!(shown[1].as_deref(), Some("Bearer token-1"));
        for seen in back.seen() {
            let authorization = seen.headers.get("authorization");
            assert!(authorization.is_none_or(|shown| shown.starts_with("Bearer token-")), "{seen:?}");
            assert!(!seen.path.starts_with("/token") || authorization.is_none(), "{seen:?}");
        }
    }
    // A second hop is another host again.
    let last = TestRegistry::start_at("127.0.0.3");
    last.small("app:1");
    last.require(Auth::Bearer { realm: None, login: None });
    back.fault("/v2/", 99, Fault::MovedTo(last.url()));
    logged_in("joe:secret").pulled(&front.name("app:1"));
    assert_eq!(shown(&last)[0], None);
}

#[test]
fn a_host_that_a_redirect_leads_to_gets_the_login_stored_for_it_and_no_other() {
    let (front, back) = (TestRegistry::start(), TestRegistry::start_at("127.0.0.2"));
    front.small("app:1");
    back.small("app:1");
    front.fault("/v2/", 999, Fault::MovedTo(back.url()));
    let stored = |host: &str| format!(r#"{{"auths": {{"{host}": {{"auth": "am9lOnNlY3JldA=="}}}}}}"#);
    for auth in [Auth::Basic("joe:secret"), Auth::Bearer { realm: None, login: Some("joe:secret") }] {
        back.require(auth);
        let place = place();
        place.write("auth.json", &stored(&back.host()));
        place.pulled(&front.name("app:1"));
        assert!(shown(&front).iter().all(Option::is_none), "{:?}", front.seen());
        // The login for the first host, in the file or on the command line, is not for the second.
        back.forget();
        let place = logged_in("joe:secret");
        place.write("auth.json", &stored(&front.host()));
        place.refused(&front.name("app:1"), Kind::Denied, "401");
        assert_told_nothing(&back);
        back.forget();
    }
    // Nor does a token server elsewhere get it.
    let other = TestRegistry::start_at("127.0.0.3");
    back.require(Auth::Bearer { realm: Some(format!("{}/token", other.url())), login: Some("joe:secret") });
    let place = place();
    place.write("auth.json", &stored(&back.host()));
    place.refused(&front.name("app:1"), Kind::Denied, "is not sent to its token server 127.0.0.3");
    assert!(other.seen().is_empty(), "{:?}", other.seen());
}

#[test]
fn a_redirect_into_the_clouds_metadata_is_not_followed() {
    let registry = TestRegistry::start();
    registry.small("app:1");
    for address in ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]"] {
        registry.fault("/v2/", 1, Fault::MovedTo(format!("http://{address}")));
        place().refused(&registry.name("app:1"), Kind::Denied, "link-local address");
    }
}

#[test]
fn hosts_that_send_each_other_round_are_left_after_some_hops() {
    let (front, back) = (TestRegistry::start(), TestRegistry::start_at("127.0.0.2"));
    front.small("app:1");
    back.small("app:1");
    front.fault("/v2/", 99, Fault::MovedTo(back.url()));
    back.fault("/v2/", 99, Fault::MovedTo(front.url()));
    place().refused(&front.name("app:1"), Kind::Unreachable, "redirects more than");
}

#[test]
fn a_token_server_on_a_strange_host_gets_no_login() {
    let (registry, other) = (TestRegistry::start(), TestRegistry::start_at("127.0.0.2"));
    registry.small("app:1");
    registry.require(Auth::Bearer { realm: Some(format!("{}/token", other.url())), login: None });
    logged_in("joe:secret").refused(
        &registry.name("app:1"),
        Kind::Denied,
        "is not sent to its token server 127.0.0.2",
    );
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

/// A credential helper that writes down what it is asked.
const HELPER: &str = r#"#!/bin/sh
read -r host
echo "$1 $host" >>"$(dirname "$0")/asked"
case $host in
*gone*) echo 'credentials not found in native keychain'; exit 1 ;;
*broken*) echo 'the keychain is locked'; exit 1 ;;
esac
cat "$(dirname "$0")/answer"
"#;

#[test]
fn credential_helpers_are_asked_for_the_one_host_and_believed() {
    use std::os::unix::fs::PermissionsExt;
    let (place, registry) = (place(), TestRegistry::start());
    registry.small("ns/app:1");
    let host = registry.host();
    let at = |name: &str| place.dir.path().join(name);
    place.write("bin/docker-credential-test", HELPER);
    std::fs::set_permissions(at("bin/docker-credential-test"), std::fs::Permissions::from_mode(0o755))
        .unwrap();
    let path = format!("{}:{}", at("bin").display(), std::env::var("PATH").unwrap());
    let pull = |auth: &str, name: &str| {
        place.write("auth.json", auth);
        let _ = std::fs::remove_file(at("bin/asked"));
        let _ = std::fs::remove_dir_all(at("cli"));
        Run::new(Runtime::Ours.program())
            .env("PATH", &path)
            .arg("--store")
            .arg(at("cli"))
            .args(["image", "pull", "--retry", "1", "--authfile"])
            .arg(at("auth.json"))
            .arg(name)
            .go()
    };
    // It is asked again when a token has to be renewed: what it answers may be good for a while only.
    let asked = || {
        let text = std::fs::read_to_string(at("bin/asked")).unwrap_or_default();
        text.lines().map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    let get = |what: &str| std::collections::BTreeSet::from([format!("get {what}")]);
    let name = registry.name("ns/app:1");

    place.write("bin/answer", r#"{"ServerURL": "x", "Username": "joe", "Secret": "secret"}"#);
    registry.require(Auth::Basic("joe:secret"));
    pull(&format!(r#"{{"credHelpers": {{"{host}": "test"}}}}"#), &name).ok();
    assert_eq!(asked(), get(&host));
    pull(r#"{"credsStore": "test"}"#, &name).ok();
    assert_eq!(asked(), get(&host));
    // The longest name counts; podman has helpers for parts of a registry.
    pull(&format!(r#"{{"credHelpers": {{"{host}/ns": "test", "{host}": "no-such"}}}}"#), &name).ok();
    assert_eq!(asked(), get(&format!("{host}/ns")));
    // One for another host is not asked.
    pull(r#"{"credHelpers": {"else.example": "test"}}"#, &name).fails();
    assert!(asked().is_empty());

    // What docker calls an identity token.
    place.write("bin/answer", r#"{"ServerURL": "x", "Username": "<token>", "Secret": "long-lived"}"#);
    registry.require(Auth::Bearer { realm: None, login: Some("refresh:long-lived") });
    pull(r#"{"credsStore": "test"}"#, &name).ok();

    // A helper that knows none leaves us without a login, one that fails is an error that says so.
    registry.require(Auth::Bearer { realm: None, login: None });
    place.write("bin/answer", "");
    let out = pull(r#"{"credsStore": "test"}"#, &name).fails();
    assert!(out.stderr.contains("docker-credential-test"), "{out}");
    let helper = |word: &str| HELPER.replace(word, "");
    place.write("bin/docker-credential-test", &helper("gone"));
    pull(r#"{"credsStore": "test"}"#, &name).ok();
    assert_eq!(asked(), get(&host));
    let broken = HELPER.replace("*gone*", "x").replace("broken", "");
    place.write("bin/docker-credential-test", &broken);
    let out = pull(r#"{"credsStore": "test"}"#, &name).fails();
    assert!(out.stderr.contains("the keychain is locked"), "{out}");
}

#[test]
fn a_token_of_the_registry_itself_is_shown_as_it_is() {
    let registry = TestRegistry::start();
    registry.small("app:1");
    registry.require(Auth::Bearer { realm: None, login: Some("nobody:at all") });
    let mut place = place();
    place.options.registry.login = Some(Login::Bearer("given".to_owned()));
    place.pull(&registry.name("app:1")).unwrap_err();
    let shown: Vec<_> =
        registry.seen().iter().filter_map(|s| s.headers.get("authorization").cloned()).collect();
    assert!(shown.iter().any(|shown| shown == "Bearer given"), "{shown:?}");
}
