//! Choosing the configuration and the version.

use super::*;
use crate::error::Kind;

#[test]
fn the_first_usable_configuration_is_used() {
    let fake = Fake::network(&["one"]);
    fake.configure("00-notes.txt", r#"{"name": "no", "type": "one"}"#);
    fake.configure("01-broken.conflist", "{");
    fake.configure("02-empty.conflist", r#"{"cniVersion": "1.0.0", "name": "empty", "plugins": []}"#);
    fake.configure("05-single.conf", r#"{"cniVersion": "0.4.0", "name": "single", "type": "one"}"#);
    assert_eq!(fake.cni().network().unwrap().name(), "single");
    fs::remove_file(fake.directory.path().join("conf/05-single.conf")).unwrap();
    assert_eq!(fake.cni().network().unwrap().name(), "test");
}

#[test]
fn without_a_usable_configuration_the_error_says_what_was_wrong() {
    let fake = Fake::network(&["one"]);
    fake.configure(
        "10-test.conflist",
        r#"{"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "../sh"}]}"#,
    );
    let error = fake.cni().add(&attachment("c1")).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(
        error.chain().contains("10-test.conflist: type: \"../sh\" is not the name of a plugin"),
        "{error:?}"
    );
    assert!(error.first_hint().is_some());
    fs::remove_dir_all(fake.directory.path().join("conf")).unwrap();
    assert_eq!(fake.cni().status().unwrap_err().kind(), Kind::NotFound);
    // Without a network there is nothing to collect.
    fake.cni().collect_garbage(&[]).unwrap();
}

#[test]
fn a_changed_configuration_takes_effect_at_once() {
    let fake = Fake::network(&["one", "two"]);
    let cni = fake.cni();
    fake.configure(
        "10-test.conflist",
        r#"{"cniVersion": "1.0.0", "name": "next", "plugins": [{"type": "two"}]}"#,
    );
    cni.add(&attachment("c1")).unwrap();
    assert_eq!((cni.network().unwrap().name(), fake.calls()), ("next", vec!["ADD two".to_owned()]));
}

#[test]
fn the_newest_version_that_all_plugins_support_is_used() {
    let fake = Fake::network(&["new", "old"]);
    let speaks = |plugin: &str, list: &str| {
        fake.on(
            plugin,
            "VERSION",
            &format!(r#"echo '{{"cniVersion": "1.1.0", "supportedVersions": [{list}]}}'"#),
        );
    };
    speaks("new", r#""0.4.0", "1.0.0", "1.1.0", "9.0.0""#);
    speaks("old", r#""0.3.1", "0.4.0", "1.0.0""#);
    let configure = |versions: &str| {
        fake.configure(
            "10-test.conflist",
            &format!(r#"{{"cniVersions": [{versions}], "name": "test", "plugins": [{{"type": "new"}}, {{"type": "old"}}]}}"#),
        );
    };
    configure(r#""0.4.0", "1.0.0", "1.1.0""#);
    let cni = fake.cni();
    cni.add(&attachment("c1")).unwrap();
    assert_eq!(fake.input("new", "ADD")["cniVersion"], "1.0.0");
    // DEL uses the same version, even if the plugins support newer ones by now.
    speaks("old", r#""1.1.0""#);
    cni.delete(&attachment("c1")).unwrap();
    assert_eq!(fake.input("new", "DEL")["cniVersion"], "1.0.0");
    configure(r#""0.3.1", "0.4.0""#);
    let error = cni.add(&attachment("c1")).unwrap_err();
    assert!(error.chain().contains("no common version of CNI among 0.3.1, 0.4.0"), "{error:?}");
}

#[test]
fn an_unsupported_version_is_refused() {
    let fake = Fake::network(&["one"]);
    for versions in [r#""cniVersion": "0.2.0","#, r#""cniVersion": "2.0.0","#, "", r#""cniVersion": 1,"#] {
        fake.configure(
            "10-test.conflist",
            &format!(r#"{{{versions} "name": "test", "plugins": [{{"type": "one"}}]}}"#),
        );
        fake.cni().add(&attachment("c1")).unwrap_err();
        assert_eq!(fake.calls(), [""; 0], "{versions}");
    }
}

#[test]
fn versions_before_0_4_get_no_result_with_del() {
    let fake = Fake::network(&["one"]);
    fake.configure(
        "10-test.conflist",
        r#"{"cniVersion": "0.3.1", "name": "test", "plugins": [{"type": "one"}]}"#,
    );
    let cni = fake.cni();
    cni.add(&attachment("c1")).unwrap();
    cni.delete(&attachment("c1")).unwrap();
    assert_eq!(fake.input("one", "DEL").get("prevResult"), None);
}
