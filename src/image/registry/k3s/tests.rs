//! What registries.yaml leads to.

use super::*;

const FILE: &str = r#"
mirrors:
  docker.io:
    endpoint:
      - "https://hub.example:5000"
      - "http://other.example/v2/proxy"
    rewrite:
      "^library/(.*)": "mirrored/$1"
  "*":
    endpoint: ["https://all.example"]
configs:
  "hub.example:5000":
    auth: {username: joe, password: "p:w"}
    tls: {ca_file: /ca.pem, insecure_skip_verify: true}
  docker.io:
    auth: {auth: am9lOmh1Yg==}
"#;

fn found(image: &str) -> Vec<Endpoint> {
    parse(FILE, Path::new("f"), &Reference::parse(image).unwrap()).unwrap().unwrap()
}

#[test]
fn mirrors_are_rewritten_and_the_registry_itself_comes_last_and_is_not() {
    let urls: Vec<String> = found("busybox").iter().map(|e| e.url("")).collect();
    assert_eq!(
        urls,
        [
            "https://hub.example:5000/v2/mirrored/busybox?ns=docker.io",
            "http://other.example/v2/proxy/mirrored/busybox?ns=docker.io",
            "https://registry-1.docker.io/v2/library/busybox",
        ]
    );
    let hub = &found("busybox")[0];
    assert_eq!(hub.login, Some(Login::Password { username: "joe".into(), password: "p:w".into() }));
    assert!(hub.tls.trusts_all && hub.tls.authorities == [PathBuf::from("/ca.pem")]);
    let own = found("busybox")[2].clone();
    assert_eq!(own.login, Some(Login::Password { username: "joe".into(), password: "hub".into() }));
    assert!(found("busybox")[1].login.is_none(), "no login of another host");
}

/// The URLs that a file leads to, each with `(tls)` if it has TLS settings and `(or http)` if it may use plain HTTP.
fn urls(text: &str, image: &str) -> Vec<String> {
    let found = parse(text, Path::new("f"), &Reference::parse(image).unwrap()).unwrap();
    let show = |endpoint: &Endpoint| {
        let tls = if endpoint.tls == Tls::default() { "" } else { " (tls)" };
        let plain = if endpoint.or_plain { " (or http)" } else { "" };
        format!("{}{tls}{plain}", endpoint.url("").split('?').next().unwrap())
    };
    found.unwrap_or_default().iter().map(show).collect()
}

#[test]
fn entries_without_settings_are_no_entries() {
    for text in [
        "{}",
        "mirrors:",
        "mirrors:\n  docker.io:\n",
        "mirrors:\n  docker.io:\n    endpoint: [docker.io]\n",
        "mirrors:\n  docker.io: {endpoint: []}\n",
        "mirrors:\n  \"*\":\n",
        "mirrors:\n  \"*\": {endpoint: }\n  docker.io:\n",
        "configs:\n  docker.io:\n  \"*\": {}\n",
        "configs:\n  docker.io: {auth: , tls: }\n",
        "configs:\n  other.example: {auth: {username: u, password: p}}\n",
    ] {
        assert!(urls(text, "busybox").is_empty(), "{text}");
    }
    // So such a registry has the mirrors of "*".
    let all = "mirrors:\n  docker.io:\n  \"*\": {endpoint: [m.example]}\n";
    let hub = "https://registry-1.docker.io/v2/library/busybox";
    assert_eq!(urls(all, "busybox"), ["https://m.example/v2/library/busybox", hub]);
    // A login makes it an entry of its own.
    let auth = format!("{all}configs:\n  docker.io: {{auth: {{username: u}}}}\n");
    assert_eq!(urls(&auth, "busybox"), [hub]);
}

#[test]
fn addresses_are_normalised_like_k3s() {
    let of = |address: &str, key: &str| {
        urls(&format!("mirrors:\n  {key}:\n    endpoint: [\"{address}\"]\n"), &format!("{key}/a"))
    };
    let own = "https://r.example/v2/a";
    for (address, there) in [
        ("https://m.example/v2", "https://m.example/v2/a"),
        ("https://m.example/", "https://m.example/v2/a"),
        ("m.example", "https://m.example/v2/a"),
        ("m.example:443", "https://m.example:443/v2/a"),
        ("1.2.3.4:5000", "https://1.2.3.4:5000/v2/a"),
        ("localhost:5000", "http://localhost:5000/v2/a"),
        ("127.0.0.1:80", "http://127.0.0.1:80/v2/a"),
        ("[::1]:5000", "http://[::1]:5000/v2/a"),
        ("localhost", "https://localhost/v2/a"),
        ("localhost:443", "https://localhost:443/v2/a"),
        ("https://localhost:5000", "https://localhost:5000/v2/a"),
        ("m.example/prefix/v2", "https://m.example/prefix/v2/a"),
        ("https://m.example/project/registry", "https://m.example/project/registry/a"),
        ("docker.io", "https://registry-1.docker.io/v2/a"),
    ] {
        assert_eq!(of(address, "r.example"), [there, own], "{address}");
    }
    // No address of a registry: K3s ignores it, and so the whole entry.
    for bad in ["ftp://m.example", "https://u:secret@m.example", "https://m.example?x", ""] {
        assert!(of(bad, "r.example").is_empty(), "{bad}");
    }
    let twice =
        "mirrors:\n  r.example:\n    endpoint: [m.example, \"https://m.example\", n.example, m.example]\n";
    let (m, n) = ("https://m.example/v2/a", "https://n.example/v2/a");
    assert_eq!(urls(twice, "r.example/a"), [m, n, own]);
}

#[test]
fn a_registry_on_this_machine_stays_plain_http_whatever_is_configured_for_it() {
    let host = "127.0.0.1:5000";
    let own = "https://127.0.0.1:5000/v2/a (or http)";
    let own_tls = "https://127.0.0.1:5000/v2/a (tls) (or http)";
    let tls = format!("configs:\n  \"{host}\": {{tls: {{insecure_skip_verify: yes}}}}\n");
    for (text, expected) in [
        (format!("configs:\n  \"{host}\": {{auth: {{username: u, password: p}}}}\n"), vec![own]),
        (tls.clone(), vec![own_tls]),
        (format!("mirrors:\n  \"{host}\": {{endpoint: [\"http://{host}\"]}}\n{tls}"), vec![own_tls]),
        (format!("mirrors:\n  \"{host}\": {{endpoint: [\"{host}\"]}}\n"), vec![]),
        (
            format!("mirrors:\n  \"{host}\": {{endpoint: [\"http://{host}\", m.example]}}\n"),
            vec!["http://127.0.0.1:5000/v2/a", "https://m.example/v2/a", own],
        ),
        ("mirrors:\n  \"*\": {endpoint: [m.example]}\n".to_owned(), vec!["https://m.example/v2/a", own]),
        ("configs:\n  \"*\": {tls: {insecure_skip_verify: true}}\n".to_owned(), vec![own_tls]),
    ] {
        assert_eq!(urls(&text, "127.0.0.1:5000/a"), expected, "{text}");
    }
    // An http:// endpoint has its TLS settings, with which TLS is tried first.
    for (address, there) in [
        ("http://m.example:5000", "http://m.example:5000/v2/a (tls)"),
        ("http://m.example:80", "http://m.example:80/v2/a (tls)"),
    ] {
        let host = &address[7..];
        let text = format!(
            "mirrors:\n  r.example: {{endpoint: [\"{address}\"]}}\n\
                 configs:\n  \"{host}\": {{tls: {{ca_file: /ca.pem}}}}\n"
        );
        assert_eq!(urls(&text, "r.example/a"), [there, "https://r.example/v2/a"]);
    }
}

#[test]
fn settings_of_the_wildcard_reach_only_default_endpoints_and_its_login_none() {
    let text = "mirrors:\n  \"*\": {endpoint: [m.example]}\n\
                    configs:\n  \"*\":\n    auth: {username: u, password: p}\n    tls: {insecure_skip_verify: true}\n  \
                    ghcr.io:\n";
    let found = parse(text, Path::new("f"), &Reference::parse("r.example/a").unwrap()).unwrap().unwrap();
    let trusts: Vec<bool> = found.iter().map(|endpoint| endpoint.tls.trusts_all).collect();
    assert_eq!(trusts, [false, true]);
    assert!(found.iter().all(|endpoint| endpoint.login.is_none()), "{found:?}");
    assert_eq!(urls(text, "ghcr.io/a"), ["https://m.example/v2/a", "https://ghcr.io/v2/a"]);
}

#[test]
fn values_are_taken_as_go_takes_them_and_wrong_types_are_refused() {
    let login = |auth: &str| {
        let text = format!("configs:\n  r.example:\n    auth: {auth}\n");
        let found = parse(&text, Path::new("f"), &Reference::parse("r.example/a").unwrap());
        found.map(|found| found.and_then(|all| all[0].login.clone()))
    };
    let password = |username: &str, password: &str| {
        Some(Login::Password { username: username.into(), password: password.into() })
    };
    assert_eq!(login("{username: 0123, password: 1e3}").unwrap(), password("0123", "1e3"));
    assert_eq!(login("{username: yes, password: }").unwrap(), password("yes", ""));
    assert_eq!(login("{username: u, identity_token: t}").unwrap(), password("u", ""));
    assert_eq!(login("{identity_token: t, auth: dTpw}").unwrap(), Some(Login::Identity("t".into())));
    assert_eq!(login("{auth: dTpw}").unwrap(), password("u", "p"));
    assert_eq!(login("{}").unwrap(), None);
    assert!(login("{auth: \"%\"}").is_err() && login("text").is_err() && login("[a]").is_err());
    for bad in [
        "[a]",
        "text",
        "mirrors: [a]",
        "mirrors: {r.example: text}",
        "mirrors: {r.example: {endpoint: \"https://m.example\"}}",
        "mirrors: {r.example: {endpoint: [{a: b}]}}",
        "mirrors: {r.example: {endpoint: [m.example], rewrite: [a]}}",
        "configs: {r.example: {tls: {insecure_skip_verify: maybe}}}",
        "configs: {r.example: {tls: {key_file: /k.pem}}}",
    ] {
        assert!(parse(bad, Path::new("f"), &Reference::parse("r.example/a").unwrap()).is_err(), "{bad}");
    }
    let both = "configs: {r.example: {tls: {cert_file: /both.pem}}}";
    let found = parse(both, Path::new("f"), &Reference::parse("r.example/a").unwrap()).unwrap().unwrap();
    assert_eq!(found[0].tls.client, Some(("/both.pem".into(), "/both.pem".into())));
}

#[test]
fn the_wildcard_is_for_registries_that_have_no_entry() {
    let urls: Vec<String> = found("ghcr.io/a/b").iter().map(|e| e.url("")).collect();
    assert_eq!(urls, ["https://all.example/v2/a/b?ns=ghcr.io", "https://ghcr.io/v2/a/b"]);
    let reference = Reference::parse("x.y/z").unwrap();
    assert!(parse("{}", Path::new("f"), &reference).unwrap().is_none());
    assert!(parse("a: [", Path::new("f"), &reference).is_err());
    let bad = "mirrors: {x.y: {endpoint: [\"http://a\"], rewrite: {\"(\": \"b\"}}}";
    assert!(parse(bad, Path::new("f"), &reference).is_err());
    // Found by fuzzing: a tab in the resulting URL.
    for to in ["a\tb", "a b", "../z", "a?x", "a#", "", "a//b"] {
        let bad = format!("mirrors: {{x.y: {{endpoint: [\"http://a\"], rewrite: {{z: {to:?}}}}}}}");
        assert!(parse(&bad, Path::new("f"), &reference).is_err(), "{to:?}");
    }
}
