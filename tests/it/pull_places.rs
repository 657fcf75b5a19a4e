//! Where an image is looked for: mirrors, TLS, proxies, and what happens when a place is down.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use coracle::error::Kind;
use coracle::image::registry::places;
use coracle::store::reference::Reference;

use super::pull_fixture::place;
use super::support::registry::{Auth, Certificates, Fault, TestRegistry};
use super::support::{Run, Runtime};

#[test]
fn a_mirror_is_asked_first_and_says_what_it_may_say() {
    let (registry, mirror) = (TestRegistry::start(), TestRegistry::start());
    registry.small("app:1");
    mirror.small("app:1");
    let place = place();
    let hosts = |capabilities: &str| {
        let (own, other) = (registry.url(), mirror.url());
        let text = format!("server = \"{own}\"\n[host.\"{other}\"]\ncapabilities = [{capabilities}]\n");
        place.write(&format!("certs.d/{}/hosts.toml", registry.host()), &text);
    };
    hosts("\"pull\"");
    place.pulled(&registry.name("app:1"));
    assert_eq!((registry.count("/manifests/"), registry.count("/blobs/")), (1, 0), "only what the tag means");
    assert_eq!((mirror.count("/manifests/1"), mirror.count("/blobs/")), (0, 3));
    let asked = format!("?ns={}", registry.host());
    assert_eq!(mirror.count(&asked), mirror.seen().len(), "{:?}", mirror.seen());
    registry.forget();
    hosts("\"pull\", \"resolve\"");
    let other = super::pull_fixture::place();
    let mut options = other.options.clone();
    options.registry.hosts_dirs.clone_from(&place.options.registry.hosts_dirs);
    let other = super::pull_fixture::Place { options, ..other };
    other.pulled(&registry.name("app:1"));
    assert!(registry.seen().is_empty(), "{:?}", registry.seen());
}

#[test]
fn a_mirror_that_is_down_or_breaks_halfway_is_replaced_by_the_registry() {
    let (registry, mirror) = (TestRegistry::start(), TestRegistry::start());
    let (layer, data) = registry.big("app:1", 500_000);
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = place();
    let text =
        format!("server = \"{}\"\n[host.\"http://{closed}\"]\n[host.\"{}\"]\n", registry.url(), mirror.url());
    place.write(&format!("certs.d/{}/hosts.toml", registry.host()), &text);
    mirror.big("app:1", 500_000);
    mirror.fault(&layer, 1, Fault::Cut(200_000));
    mirror.fault(&layer, 99, Fault::HangUp);
    let image = place.pulled(&registry.name("app:1"));
    assert!(place.read(&image, "data").unwrap() == data);
    let seen = registry.seen();
    let ranges: Vec<_> = seen.iter().filter_map(|s| s.headers.get("range")).collect();
    assert_eq!(ranges, ["bytes=200000-"]);
}

#[test]
fn a_mirror_that_answers_with_something_else_is_replaced_by_the_registry() {
    let (registry, mirror) = (TestRegistry::start(), TestRegistry::start());
    registry.small("app:1");
    mirror.small("app:1");
    for body in ["<html>log in</html>", "", "{\"error\": \"log in\"}", "[]", "{\"schemaVersion\": 2"] {
        mirror.heal();
        mirror.fault("/manifests/", 99, Fault::Instead(body.as_bytes().to_vec()));
        let alone = place();
        let error = alone.refused(&mirror.name("app:1"), Kind::Corrupt, "a manifest");
        assert!(error.first_hint().unwrap().contains("portal"), "{error:?}");
        let text = format!("server = \"{}\"\n[host.\"{}\"]\n", registry.url(), mirror.url());
        let place = place();
        place.write(&format!("certs.d/{}/hosts.toml", registry.host()), &text);
        place.pulled(&registry.name("app:1"));
    }
}

#[test]
fn what_the_mirror_has_not_while_the_registry_cannot_be_reached_is_not_found_at_once() {
    let mirror = TestRegistry::start();
    mirror.small("app:1");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let place = || {
        let mut place = place();
        place.options.registry.timing.backoff = Duration::from_secs(20);
        let hosts = format!("[host.\"{}\"]\n", mirror.url());
        place.write(&format!("certs.d/{closed}/hosts.toml"), &hosts);
        place
    };
    let begun = std::time::Instant::now();
    let error = place().refused(&format!("{closed}/gone:1"), Kind::NotFound, "none of 2 endpoints has it");
    let text = error.chain();
    let lines: Vec<&str> = text.lines().skip(1).collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(
        lines[0].contains(&mirror.url()) && lines[0].contains("404 Not Found: manifest unknown"),
        "{text}"
    );
    assert!(lines[1].contains(&closed.to_string()) && lines[1].contains("Connection refused"), "{text}");
    // The same for a layer.
    let (layer, _) = mirror.big("app:2", 1000);
    mirror.remove_blob(&layer);
    let error = place().refused(&format!("{closed}/app:2"), Kind::NotFound, &layer);
    assert!(error.chain().contains("404") && error.chain().contains("Connection refused"), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    // Where nobody says so, it is tried again.
    let place = super::pull_fixture::place();
    place.write(&format!("certs.d/{closed}/hosts.toml"), "[host.\"http://127.0.0.1:1\"]\n");
    place.refused(&format!("{closed}/gone:1"), Kind::Unreachable, "Connection refused");
    assert!(place.heard.text().contains("trying again"), "{}", place.heard.text());
}

#[test]
fn a_registry_that_is_only_busy_is_asked_again_after_its_mirror_said_no() {
    let (registry, mirror) = (TestRegistry::start(), TestRegistry::start());
    registry.small("app:1");
    registry.fault("/v2/", 2, Fault::Status(503, Vec::new()));
    let place = place();
    let hosts = format!("server = \"{}\"\n[host.\"{}\"]\n", registry.url(), mirror.url());
    place.write(&format!("certs.d/{}/hosts.toml", registry.host()), &hosts);
    place.pulled(&registry.name("app:1"));
    // What refuses says more than what has not the image, wherever it stands.
    mirror.require(Auth::Basic("joe:secret"));
    place.pull(&registry.name("gone:1")).map_err(|error| assert_eq!(error.kind(), Kind::Denied)).unwrap_err();
}

#[test]
fn a_registry_without_head_is_asked_for_the_manifest() {
    let registry = TestRegistry::start();
    registry.small("app:1");
    let place = place();
    place.pulled(&registry.name("app:1"));
    registry.fault("/manifests/1", 1, Fault::Status(405, Vec::new()));
    place.pulled(&registry.name("app:1"));
}

#[test]
fn the_files_of_k3s_and_podman_lead_to_mirrors_too() {
    let mirror = TestRegistry::start();
    mirror.small("rewritten/app:1");
    mirror.require(Auth::Basic("joe:secret"));
    let place = place();
    let (host, url) = (mirror.host(), mirror.url());
    place.write(
        "registries.yaml",
        &format!(
            "mirrors:\n  nowhere.example:\n    endpoint: [\"{url}\"]\n    rewrite: {{\"^ns/(.*)\": \"rewritten/$1\"}}\n\
             configs:\n  \"{host}\":\n    auth: {{username: joe, password: secret}}\n"
        ),
    );
    place.pulled("nowhere.example/ns/app:1");
    mirror.require(Auth::Open);
    let conf = format!(
        "[[registry]]\nprefix = \"else.example/ns\"\nlocation = \"gone.example\"\n\
         [[registry.mirror]]\nlocation = \"{host}/rewritten\"\ninsecure = true\n\
         [[registry]]\nlocation = \"bad.example\"\nblocked = true\n"
    );
    let place = super::pull_fixture::place();
    place.write("registries.conf", &conf);
    let image = place.pulled("else.example/ns/app:1");
    assert_eq!(image.names, ["else.example/ns/app:1"]);
    let place = super::pull_fixture::place();
    place.write("registries.conf", &conf);
    place.refused("bad.example/app", Kind::Denied, "blocked");
}

#[test]
fn a_plain_registry_on_this_machine_is_reached_whatever_k3s_configures_for_it() {
    let registry = TestRegistry::start();
    registry.small("app:1");
    let host = registry.host();
    let login = "auth: {username: joe, password: secret}";
    for (file, auth) in [
        ("mirrors: {}\n".to_owned(), Auth::Open),
        ("mirrors:\n  \"*\":\n".to_owned(), Auth::Open),
        ("mirrors:\n  docker.io:\n  \"*\":\n".to_owned(), Auth::Open),
        (format!("configs:\n  \"{host}\":\n    {login}\n"), Auth::Basic("joe:secret")),
        (format!("configs:\n  \"{host}\":\n    tls: {{insecure_skip_verify: true}}\n"), Auth::Open),
        (
            format!(
                "mirrors:\n  \"{host}\":\n    endpoint: [\"http://{host}\"]\n\
                 configs:\n  \"{host}\":\n    tls: {{insecure_skip_verify: true}}\n    {login}\n"
            ),
            Auth::Basic("joe:secret"),
        ),
        ("\u{feff}configs:\n  \"*\":\n    tls: {insecure_skip_verify: true}\n".to_owned(), Auth::Open),
    ] {
        registry.require(auth);
        let place = place();
        place.write("registries.yaml", &file);
        place.pulled(&registry.name("app:1"));
    }
    // The same without a file of K3s: a directory for the host, or for all, that names no server.
    registry.require(Auth::Open);
    for (path, text) in [
        (format!("certs.d/{host}/hosts.toml"), "skip_verify = true\n"),
        ("certs.d/_default/hosts.toml".to_owned(), "[host.\"http://127.0.0.1:1\"]\n"),
        (format!("certs.d/{host}/note"), "no certificate"),
    ] {
        let place = place();
        place.write(&path, text);
        place.pulled(&registry.name("app:1"));
    }
}

#[test]
fn tls_is_tried_first_where_a_plain_address_has_tls_settings() {
    needs!(openssl);
    let pki = tempfile::tempdir().unwrap();
    let certificates = Certificates::make(pki.path());
    let (secure, plain) = (TestRegistry::start_tls(&certificates), TestRegistry::start());
    for registry in [&secure, &plain] {
        registry.small("app:1");
        let host = registry.host();
        let place = place();
        place.write(
            "registries.yaml",
            &format!(
                "mirrors:\n  nowhere.example: {{endpoint: [\"http://{host}\"]}}\n\
                 configs:\n  \"{host}\": {{tls: {{insecure_skip_verify: true}}}}\n"
            ),
        );
        place.pulled("nowhere.example/app:1");
        let place = super::pull_fixture::place();
        let hosts = format!("[host.\"http://{host}\"]\nskip_verify = true\n");
        place.write("certs.d/nowhere.example/hosts.toml", &hosts);
        place.pulled("nowhere.example/app:1");
    }
}

#[test]
fn the_login_for_all_of_k3s_is_sent_to_no_registry() {
    let registry = TestRegistry::start();
    registry.small("app:1");
    registry.require(Auth::Basic("joe:secret"));
    let place = place();
    place.write("registries.yaml", "configs:\n  \"*\":\n    auth: {username: joe, password: secret}\n");
    place.refused(&registry.name("app:1"), Kind::Denied, "401");
    assert!(registry.seen().iter().all(|seen| !seen.headers.contains_key("authorization")));
}

#[test]
fn plain_http_is_spoken_only_here_or_where_it_was_asked_for() {
    let options = place().options.registry;
    let urls = |name: &str, verify: Option<bool>| {
        let options = coracle::image::registry::RegistryOptions { tls_verify: verify, ..options.clone() };
        places(&options, &Reference::parse(name).unwrap()).unwrap()
    };
    assert_eq!(urls("r.example/a", None), ["https://r.example/v2/a"]);
    assert_eq!(urls("r.example/a", Some(false)), ["https://r.example/v2/a", "http://r.example/v2/a"]);
    assert_eq!(urls("localhost:5000/a", None).len(), 2);
    assert_eq!(urls("localhost:5000/a", Some(true)), ["https://localhost:5000/v2/a"]);
    assert_eq!(urls("busybox", None), ["https://registry-1.docker.io/v2/library/busybox"]);
}

#[test]
fn tls_takes_only_authorities_that_are_trusted() {
    needs!(openssl);
    let mut place = place();
    let certificates = Certificates::make(&place.dir.path().join("pki"));
    let registry = TestRegistry::start_tls(&certificates);
    registry.small("app:1");
    let name = registry.name("app:1");
    place.options.registry.tls_verify = Some(true);
    let error = place.refused(&name, Kind::Denied, "set up TLS");
    assert!(error.first_hint().unwrap().contains("--cert-dir"), "{error:?}");
    assert!(registry.seen().is_empty());
    let trusted = place.dir.path().join("trusted");
    std::fs::create_dir(&trusted).unwrap();
    std::fs::copy(certificates.path("ca.pem"), trusted.join("ca.crt")).unwrap();
    place.options.registry.cert_dir = Some(trusted);
    place.pulled(&name);
    let mut any = super::pull_fixture::place();
    any.options.registry.tls_verify = Some(false);
    any.pulled(&name);
}

#[test]
fn a_certificate_that_is_not_good_yet_makes_one_look_at_the_clock() {
    needs!(openssl);
    let mut place = place();
    let certificates = Certificates::make(&place.dir.path().join("pki")).of_the_future();
    let registry = TestRegistry::start_tls(&certificates);
    registry.small("app:1");
    let trusted = place.dir.path().join("trusted");
    std::fs::create_dir(&trusted).unwrap();
    std::fs::copy(certificates.path("ca.pem"), trusted.join("ca.crt")).unwrap();
    place.options.registry.cert_dir = Some(trusted);
    place.options.registry.tls_verify = Some(true);
    let error = place.refused(&registry.name("app:1"), Kind::Denied, "set up TLS");
    let today = chrono::Utc::now().format("%Y-%m-").to_string();
    let hint = error.first_hint().unwrap();
    assert!(hint.contains("clock, which shows") && hint.contains(&today), "{error:?}");
    assert!(registry.seen().is_empty());
}

#[test]
fn a_registry_may_want_our_certificate_and_a_redirect_does_not_get_it() {
    needs!(openssl);
    let place = place();
    let certificates = Certificates::make(&place.dir.path().join("pki")).wanting_client();
    let registry = TestRegistry::start_tls(&certificates);
    let layout = registry.small("app:1");
    let pem = |file: &str| certificates.path(file).display().to_string();
    let url = registry.url();
    let text = |client: &str| {
        format!("server = \"{url}\"\n[host.\"{url}\"]\nca = \"{}\"\n{client}\n", pem("ca.pem"))
    };
    let hosts = format!("certs.d/{}/hosts.toml", registry.host());
    place.write(&hosts, &text(""));
    place.refused(&registry.name("app:1"), Kind::Unreachable, "");
    place.write(&hosts, &text(&format!("client = [[\"{}\", \"{}\"]]", pem("client.pem"), pem("client.key"))));
    let strange = TestRegistry::start_tls(&certificates);
    strange.layout(&layout, "app:1");
    let layer = layout.layer(1).replace("blobs/sha256/", "sha256:");
    let moved = vec![("Location", format!("{}/v2/app/blobs/{layer}", strange.url()))];
    registry.fault(&layer, 99, Fault::Status(307, moved));
    place.refused(&registry.name("app:1"), Kind::Unreachable, "");
    assert!(strange.seen().is_empty());
    registry.heal();
    place.pulled(&registry.name("app:1"));
}

#[test]
fn a_redirect_out_of_tls_is_followed_for_what_a_digest_checks_and_no_further() {
    needs!(openssl);
    let mut place = place();
    let certificates = Certificates::make(&place.dir.path().join("pki"));
    let (registry, plain) = (TestRegistry::start_tls(&certificates), TestRegistry::start());
    let layout = registry.small("app:1");
    plain.layout(&layout, "app:1");
    place.options.registry.tls_verify = Some(false);
    let layer = layout.layer(1).replace("blobs/sha256/", "sha256:");
    let to = |what: &str| vec![("Location", format!("{}/v2/app/{what}", plain.url()))];
    registry.fault("/manifests/1", 99, Fault::Status(307, to("manifests/1")));
    place.options.registry.timing.tries = 1;
    let error = place.pull(&registry.name("app:1")).unwrap_err();
    assert!(plain.seen().is_empty(), "{error:?}");
    registry.heal();
    registry.fault(&layer, 1, Fault::Status(307, to(&format!("blobs/{layer}"))));
    place.pulled(&registry.name("app:1"));
    assert_eq!(plain.count("/blobs/"), 1);
}

/// Runs the program itself, for what it takes from the environment.
fn coracle(store: &Path, variables: &[(&str, &str)], args: &[&str]) -> super::support::Output {
    let mut run =
        Run::new(Runtime::Ours.program()).arg("--store").arg(store).args(["image", "pull"]).args(args);
    for (name, value) in variables {
        run = run.env(name, value);
    }
    run.go()
}

/// Listens at an address and answers nobody: what a link is like that drops what it does not like.
fn dead(at: SocketAddr) -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind(at).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&at, Duration::from_millis(200)) {
        waiting.push(stream);
    }
    (listener, waiting)
}

#[test]
fn a_name_with_two_addresses_is_reached_by_the_one_that_lives() {
    needs!(root, ipv6);
    for (alive, dead_one) in [("127.0.0.1", "[::1]"), ("[::1]", "127.0.0.1")] {
        let (place, registry) = (place(), TestRegistry::start_at(alive));
        registry.small("app:1");
        let port = registry.host().rsplit_once(':').unwrap().1.to_owned();
        let dead = dead(format!("{dead_one}:{port}").parse().unwrap());
        place.write("hosts", "::1 twofold.test\n127.0.0.1 twofold.test\n");
        let server = format!("server = \"http://twofold.test:{port}\"\n");
        place.write(&format!("certs.d/twofold.test:{port}/hosts.toml"), &server);
        let script = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
        let at = |name: &str| place.dir.path().join(name);
        Run::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(at("hosts"))
            .arg(Runtime::Ours.program())
            .arg("--store")
            .arg(at("other"))
            .args(["image", "pull", "--retry", "1", "--connect-timeout", "8", "--hosts-dir"])
            .arg(at("certs.d"))
            .arg(format!("twofold.test:{port}/app:1"))
            .go()
            .ok();
        drop(dead);
    }
    // An address in the place of a name.
    let registry = TestRegistry::start_at("[::1]");
    registry.small("app:1");
    place().pulled(&registry.name("app:1"));
}

#[test]
fn a_proxy_is_asked_unless_no_proxy_says_otherwise() {
    let (place, proxy) = (place(), TestRegistry::start());
    proxy.small("app:1");
    let dir = place.dir.path().join("certs.d");
    place.write("certs.d/r.test/hosts.toml", "server = \"http://r.test\"\n");
    let store = place.dir.path().join("other");
    let args = ["--hosts-dir", dir.to_str().unwrap(), "--retry", "1", "r.test/app:1"];
    coracle(&store, &[("http_proxy", &proxy.url())], &args).ok();
    assert!(proxy.seen().iter().all(|seen| seen.headers["host"] == "r.test"), "{:?}", proxy.seen());
    proxy.forget();
    let args = ["--hosts-dir", dir.to_str().unwrap(), "--retry", "1", "r.test/app:2"];
    let direct = [("http_proxy", proxy.url()), ("no_proxy", "10.0.0.0/8,.test".to_owned())];
    let direct = direct.each_ref().map(|(name, value)| (*name, value.as_str()));
    coracle(&store, &direct, &args).fails();
    assert!(proxy.seen().is_empty());
}

/// A proxy that connects everybody to `to`, whatever they ask for; it tells what it was asked.
fn tunnel(to: String) -> (SocketAddr, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, (sender, asked)) = (listener.local_addr().unwrap(), channel());
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let (mut client, mut head) = (client.unwrap(), Vec::new());
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && client.read(&mut byte).unwrap_or(0) == 1 {
                head.push(byte[0]);
            }
            let mut server = TcpStream::connect(&to).unwrap();
            if sender.send(String::from_utf8(head).unwrap()).is_err() {
                return;
            }
            client.write_all(b"HTTP/1.1 200 so\r\n\r\n").unwrap();
            let (mut up, mut down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
            std::thread::spawn(move || std::io::copy(&mut up, &mut down));
            std::thread::spawn(move || std::io::copy(&mut server, &mut client));
        }
    });
    (address, asked)
}

#[test]
fn through_a_proxy_tls_goes_to_the_registry_itself_and_addresses_may_be_left_out_by_their_net() {
    needs!(openssl);
    let place = place();
    let certificates = Certificates::make(&place.dir.path().join("pki"));
    let registry = TestRegistry::start_tls(&certificates);
    registry.small("app:1");
    let trusted = place.dir.path().join("trusted");
    std::fs::create_dir(&trusted).unwrap();
    std::fs::copy(certificates.path("ca.pem"), trusted.join("ca.crt")).unwrap();
    let (proxy, asked) = tunnel(registry.host());
    let proxy = format!("http://joe:secret@{proxy}");
    let store = place.dir.path().join("other");
    let pull = |name: &str, variables: &[(&str, &str)]| {
        let trusted = trusted.to_str().unwrap();
        coracle(&store, variables, &["--cert-dir", trusted, "--retry", "1", "--connect-timeout", "1", name])
    };
    pull("r.test/app:1", &[("https_proxy", &proxy)]).ok();
    let head = asked.try_iter().next().unwrap();
    assert!(head.starts_with("CONNECT r.test:443 HTTP/1.1\r\n"), "{head}");
    assert!(head.to_lowercase().contains("proxy-authorization: basic am9lonnly3jlda=="), "{head}");
    for seen in registry.seen() {
        assert!(!seen.headers.contains_key("proxy-authorization"), "that is for the proxy alone: {seen:?}");
    }
    // Nobody answers at an address of a documentation's net.
    let _ = asked.try_iter().count();
    for (left_out, is_asked) in [("198.51.100.0/24", true), ("192.0.2.0/24", false)] {
        pull("192.0.2.1/app:1", &[("https_proxy", &proxy), ("no_proxy", left_out)]).fails();
        assert_eq!(asked.try_iter().count() > 0, is_asked, "{left_out}");
    }
}
