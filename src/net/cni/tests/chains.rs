//! ADD, DEL, STATUS and GC through a chain of plugins.

use serde_json::json;

use super::*;
use crate::error::Kind;

#[test]
fn each_plugin_gets_the_result_of_the_one_before() {
    let fake = Fake::network(&["one", "two"]);
    fake.on("one", "ADD", r#"echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.9.9.9/8"}]}'"#);
    let outcome = fake.cni().add(&attachment("c1")).unwrap();
    assert_eq!(fake.calls(), ["ADD one", "ADD two"]);
    assert_eq!(
        outcome.addresses,
        ["10.1.0.5".parse().unwrap(), "fd00::5".parse::<std::net::IpAddr>().unwrap()]
    );
    let first = fake.input("one", "ADD");
    assert_eq!(
        (&first["name"], &first["cniVersion"], &first["type"]),
        (&json!("test"), &json!("1.0.0"), &json!("one"))
    );
    assert_eq!(first.get("prevResult"), None);
    assert_eq!(fake.input("two", "ADD")["prevResult"]["ips"][0]["address"], "10.9.9.9/8");
}

#[test]
fn del_goes_backwards_with_the_result_of_add() {
    let fake = Fake::network(&["one", "two"]);
    let cni = fake.cni();
    cni.add(&attachment("c1")).unwrap();
    fake.calls();
    cni.delete(&attachment("c1")).unwrap();
    assert_eq!(fake.calls(), ["DEL two", "DEL one"]);
    assert_eq!(fake.input("one", "DEL")["prevResult"]["ips"][0]["address"], "10.1.0.5/16");
    assert!(fake.variables("one", "DEL").starts_with("c1 eth0 netns=/proc/self/ns/net args= "));
    assert_eq!(fake.records(), 0);
    // A second DEL, and one of an interface that was never attached, have nothing to do.
    cni.delete(&attachment("c1")).unwrap();
    cni.delete(&attachment("other")).unwrap();
    assert_eq!(fake.calls(), [""; 0]);
}

#[test]
fn del_uses_the_configuration_that_add_used() {
    let fake = Fake::network(&["one", "two"]);
    let cni = fake.cni();
    cni.add(&attachment("c1")).unwrap();
    fake.configure(
        "10-test.conflist",
        r#"{"cniVersion": "1.0.0", "name": "new", "plugins": [{"type": "one"}]}"#,
    );
    fake.calls();
    cni.delete(&attachment("c1")).unwrap();
    assert_eq!(fake.calls(), ["DEL two", "DEL one"]);
    assert_eq!(fake.input("one", "DEL")["name"], "test");
}

#[test]
fn a_failed_add_is_undone_and_reports_the_plugins_message() {
    let fake = Fake::network(&["one", "two", "three"]);
    fake.on("two", "ADD", r#"echo '{"code": 7, "msg": "no subnet", "details": "in the file"}'; exit 1"#);
    let error = fake.cni().add(&attachment("c1")).unwrap_err();
    assert_eq!(error.chain(), "run ADD of the network plugin two for test: no subnet: in the file");
    assert_eq!(error.kind(), Kind::Invalid);
    assert_eq!(fake.calls(), ["ADD one", "ADD two", "DEL three", "DEL two", "DEL one"]);
    assert_eq!(fake.records(), 0);
}

#[test]
fn a_failed_undo_can_be_retried() {
    let fake = Fake::network(&["one", "two"]);
    fake.on("two", "ADD", "echo nothing works >&2; exit 3");
    fake.on("one", "DEL", r#"echo '{"code": 11, "msg": "later"}'; exit 1"#);
    let cni = fake.cni();
    let error = cni.add(&attachment("c1")).unwrap_err();
    assert!(error.chain().ends_with("nothing works"), "{error:?}");
    assert_eq!(fake.records(), 1);
    let error = cni.delete(&attachment("c1")).unwrap_err();
    assert_eq!((error.kind(), fake.records()), (Kind::Busy, 1));
    fake.on("one", "DEL", "");
    cni.delete(&attachment("c1")).unwrap();
    assert_eq!(fake.records(), 0);
}

#[test]
fn del_of_a_vanished_namespace_succeeds() {
    let fake = Fake::network(&["one"]);
    let cni = fake.cni();
    let gone = Attachment { namespace: fake.directory.path().join("gone"), ..attachment("c1") };
    cni.add(&gone).unwrap();
    fake.on(
        "one",
        "DEL",
        r#"[ -z "$CNI_NETNS" ] || { echo '{"code": 100, "msg": "no such namespace"}'; exit 1; }"#,
    );
    cni.delete(&gone).unwrap();
    // A plugin that does not know the container has nothing to undo.
    cni.add(&gone).unwrap();
    fake.on("one", "DEL", r#"echo '{"code": 3, "msg": "unknown container"}'; exit 1"#);
    cni.delete(&gone).unwrap();
    assert_eq!(fake.records(), 0);
}

#[test]
fn a_plugin_that_hangs_is_killed_with_all_it_started() {
    let fake = Fake::network(&["one"]);
    fake.on("one", "ADD", r#"sleep 300 & echo $! >"$directory/pid"; wait"#);
    let cni = Cni::new(Settings { patience: Duration::from_secs(5), ..fake.settings() });
    let error = cni.add(&attachment("c1")).unwrap_err();
    assert_eq!(error.kind(), Kind::TimedOut, "{error:?}");
    let pid = fs::read_to_string(fake.bin("pid")).unwrap();
    let stat = || fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    // The process was killed, but its new parent may not have reaped it yet.
    for _ in 0..200 {
        if stat().is_empty() || stat().contains(") Z ") {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{}", stat());
}

#[test]
fn a_plugin_that_leaves_a_daemon_behind_does_not_make_us_wait() {
    let fake = Fake::network(&["one"]);
    fake.on("one", "ADD", &format!("sleep 300 & echo $! >\"$directory/pid\"; cat <<'END'\n{RESULT}\nEND"));
    // Waiting for the daemon would end in a timeout error.
    fake.cni().add(&attachment("c1")).unwrap();
    let pid: i32 = fs::read_to_string(fake.bin("pid")).unwrap().trim().parse().unwrap();
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
}

#[test]
fn a_network_whose_plugins_are_not_all_there_is_not_begun() {
    let fake = Fake::network(&["one", "two"]);
    fs::remove_file(fake.bin("two")).unwrap();
    let error = fake.cni().add(&attachment("c1")).unwrap_err();
    assert!(error.chain().contains("there is no network plugin two in "), "{error:?}");
    assert_eq!((fake.calls(), fake.records()), (vec![], 0));
}

#[test]
fn invalid_results_are_errors_and_undone() {
    for (answer, part) in [
        ("", "wrote no result"),
        ("echo '{'", "parse its result"),
        (r#"echo '{"ips": [{"address": "nowhere"}]}'"#, "nowhere"),
        ("kill -9 $$", "signal: 9"),
        ("exit 4", "exit status: 4"),
    ] {
        let fake = Fake::network(&["one"]);
        fake.on("one", "ADD", answer);
        let error = fake.cni().add(&attachment("c1")).unwrap_err();
        assert!(error.chain().contains(part), "{answer}: {error:?}");
        assert_eq!((fake.calls().last().map(String::as_str), fake.records()), (Some("DEL one"), 0));
    }
}

/// A plugin that writes endlessly, or a very long message, uses up neither memory nor time.
#[test]
fn a_plugin_that_writes_too_much_fails_and_is_undone() {
    for (answer, part) in [
        ("yes", "1048576 bytes"),
        ("yes >&2", "1048576 bytes"),
        ("head -c 100000000 /dev/zero", "1048576 bytes"),
        (r#"printf '{"ips": [], "x": "'; head -c 2000000 /dev/zero | tr '\0' x; echo '"}'"#, "1048576 bytes"),
        (r#"printf '{"code": 7, "msg": "'; head -c 100000 /dev/zero | tr '\0' m; echo '"}'; exit 1"#, "mmmm"),
    ] {
        let fake = Fake::network(&["one"]);
        fake.on("one", "ADD", answer);
        let error = fake.cni().add(&attachment("c1")).unwrap_err();
        assert!(error.chain().contains(part), "{answer}: {error:?}");
        assert!(error.chain().len() < 10_000, "{answer}: {} bytes", error.chain().len());
        assert_eq!(
            (fake.calls().last().map(String::as_str), fake.records()),
            (Some("DEL one"), 0),
            "{answer}"
        );
    }
}

/// Results that refer to missing interfaces, containers, or addresses with trailing text.
#[test]
fn a_false_result_gives_addresses_or_an_error() {
    let reply = |text: &str| {
        let fake = Fake::network(&["one"]);
        fake.on("one", "ADD", &format!("cat <<'END'\n{text}\nEND"));
        let added = fake.cni().add(&attachment("c1")).map(|outcome| outcome.addresses.len());
        assert_eq!(fake.records(), usize::from(added.is_ok()), "{text}");
        added
    };
    for (text, count) in [
        (r#"{"ips": [{"address": "10.0.0.2/24", "interface": 99}]}"#, Some(1)),
        (
            r#"{"ips": [{"address": "10.0.0.2/24", "interface": 0}], "interfaces": [{"name": "other", "sandbox": "/x"}]}"#,
            Some(0),
        ),
        (r#"{"ips": [{"address": "10.0.0.2\\n/24"}]}"#, None),
        (r#"{"ips": [{"address": "10.0.0.2/24", "interface": -1}]}"#, None),
        (r#"{"ips": {"address": "10.0.0.2"}}"#, None),
        (r#"{"dns": {"nameservers": ["1.1.1.1\\noptions x"]}, "ips": []}"#, Some(0)),
        ("[]", None),
        ("7", None),
        ("null", None),
    ] {
        assert_eq!(reply(text).ok(), count, "{text}");
    }
    assert!(reply(&"[".repeat(500_000)).is_err(), "depth is refused, not followed");
}

#[test]
fn capabilities_reach_only_the_plugins_that_have_them() {
    let fake = Fake::network(&["plain", "able"]);
    fake.configure(
        "10-test.conflist",
        r#"{"cniVersion": "1.0.0", "name": "test", "plugins": [{"type": "plain"},
            {"type": "able", "capabilities": {"portMappings": true, "bandwidth": true, "ips": true, "mac": true, "dns": false}}]}"#,
    );
    let capabilities = Capabilities {
        ports: vec![PortMapping {
            protocol: "tcp",
            host_port: 8080,
            container_port: 80,
            host_ip: "127.0.0.1".parse().ok(),
        }],
        bandwidth: Bandwidth { ingress: Some(1_000_000), egress: None },
        ips: vec!["10.1.0.7/16".into()],
        mac: Some("02:00:00:00:00:07".into()),
        dns: Some(Dns { servers: vec!["1.1.1.1".into()], ..Dns::default() }),
        aliases: vec!["web".into()],
        ..Capabilities::default()
    };
    let args = [("IgnoreUnknown", "1"), ("K8S_POD_NAME", "web")];
    let args = args.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let cni = fake.cni();
    cni.add(&Attachment { capabilities, args, ..attachment("c1") }).unwrap();
    assert_eq!(fake.input("plain", "ADD").get("runtimeConfig"), None);
    let port = json!({"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": "127.0.0.1"});
    let told = json!({
        "portMappings": [port],
        "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": i32::MAX},
        "ips": ["10.1.0.7/16"],
        "mac": "02:00:00:00:00:07",
    });
    assert_eq!(fake.input("able", "ADD")["runtimeConfig"], told);
    assert!(fake.variables("able", "ADD").contains("args=IgnoreUnknown=1;K8S_POD_NAME=web "));
    // DEL gets the same values, although its caller passes none.
    cni.delete(&attachment("c1")).unwrap();
    assert_eq!(fake.input("able", "DEL")["runtimeConfig"], told);
}

#[test]
fn unsafe_names_are_refused_before_anything_runs() {
    let fake = Fake::network(&["one"]);
    let cni = fake.cni();
    let named = |container: &str, interface: &str| Attachment {
        interface: interface.into(),
        ..attachment(container)
    };
    for bad in
        [named("", "eth0"), named("../x", "eth0"), named("a@b", "eth0"), named("c", ""), named("c", "a/b")]
    {
        assert_eq!(cni.add(&bad).unwrap_err().kind(), Kind::Invalid, "{bad:?}");
    }
    let args = [("A".to_owned(), "1;B=2".to_owned())].into();
    assert_eq!(cni.add(&Attachment { args, ..attachment("c1") }).unwrap_err().kind(), Kind::Invalid);
    assert_eq!((fake.calls(), fake.records()), (vec![], 0));
}

#[test]
fn status_asks_plugins_that_support_it() {
    let fake = Fake::network(&["one"]);
    let cni = fake.cni();
    fake.on("one", "STATUS", r#"echo '{"code": 50, "msg": "no route yet"}'; exit 1"#);
    cni.status().unwrap();
    assert_eq!(fake.calls(), [""; 0]);
    fake.configure(
        "10-test.conflist",
        r#"{"cniVersion": "1.1.0", "name": "test", "plugins": [{"type": "one"}]}"#,
    );
    let error = cni.status().unwrap_err();
    assert!(error.chain().ends_with("no route yet"), "{error:?}");
    fake.on("one", "STATUS", "");
    cni.status().unwrap();
    fs::remove_file(fake.bin("one")).unwrap();
    let error = cni.status().unwrap_err();
    assert!(error.chain().contains("there is no network plugin one in "), "{error:?}");
}

#[test]
fn garbage_collection_detaches_stale_interfaces() {
    let fake = Fake::network(&["one"]);
    let cni = fake.cni();
    for container in ["kept", "lost"] {
        cni.add(&attachment(container)).unwrap();
    }
    fake.calls();
    let alive = [("kept".to_owned(), "eth0".to_owned())];
    cni.collect_garbage(&alive).unwrap();
    assert_eq!(fake.calls(), ["DEL one"]);
    assert!(fake.variables("one", "DEL").starts_with("lost eth0 "));
    assert_eq!(fake.records(), 1);
    fake.configure(
        "10-test.conflist",
        r#"{"cniVersion": "1.1.0", "name": "test", "plugins": [{"type": "one"}]}"#,
    );
    cni.collect_garbage(&alive).unwrap();
    assert_eq!(fake.calls(), ["GC one"]);
    let valid = &fake.input("one", "GC")["cni.dev/valid-attachments"];
    assert_eq!(*valid, json!([{"containerID": "kept", "ifname": "eth0"}]));
}

#[test]
fn a_damaged_record_does_not_stop_a_sweep_and_its_interface_is_detached() {
    let fake = Fake::network(&["one"]);
    let cni = fake.cni();
    cni.add(&attachment("lost")).unwrap();
    fs::write(fake.directory.path().join("records/torn@eth0.json"), "{\"form\": 1,").unwrap();
    fs::write(fake.directory.path().join("records/kept@eth0.json"), "").unwrap();
    fs::write(fake.directory.path().join("records/half@eth0.new"), "{").unwrap();
    cni.collect_garbage(&[("kept".to_owned(), "eth0".to_owned())]).unwrap();
    assert_eq!(fake.calls(), ["ADD one", "DEL one", "DEL one"]);
    assert_eq!(fake.records(), 1, "of a container that exists; ADD did not run after an unfinished write");
}

/// Ways to damage a record: a power cut, a full or a lost filesystem, and contents that no release wrote.
fn damages(record: &[u8]) -> Vec<(&'static str, Option<Vec<u8>>)> {
    let text = std::str::from_utf8(record).unwrap();
    vec![
        ("lost", None),
        ("empty", Some(Vec::new())),
        ("cut", Some(record[..20].to_vec())),
        ("cut at its end", Some(record[..record.len() - 1].to_vec())),
        ("zeros", Some(vec![0; record.len()])),
        ("no UTF-8", Some(vec![0xff; 64])),
        ("no object", Some(b"[]".to_vec())),
        ("no fields", Some(b"{}".to_vec())),
        ("no network", Some(text.replace(r#""network":{"#, r#""network":null,"x":{"#).into_bytes())),
        ("no plugins", Some(text.replace(r#""plugins""#, r#""plugs""#).into_bytes())),
    ]
}

#[test]
fn del_runs_with_what_is_known_when_the_record_is_damaged() {
    let fake = Fake::network(&["one", "two"]);
    let cni = fake.cni();
    let path = fake.directory.path().join("records/c1@eth0.json");
    cni.add(&attachment("c1")).unwrap();
    for (how, text) in damages(&fs::read(&path).unwrap()) {
        cni.add(&attachment("c1")).unwrap();
        match text {
            Some(text) => fs::write(&path, text).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        fake.calls();
        let args = [("K8S_POD_NAME".to_owned(), "web".to_owned())].into();
        cni.delete_attached(&Attachment { args, ..attachment("c1") }).unwrap();
        assert_eq!(fake.calls(), ["DEL two", "DEL one"], "{how}");
        let variables = fake.variables("one", "DEL");
        assert!(variables.starts_with("c1 eth0 netns=/proc/self/ns/net args="), "{how}: {variables}");
        assert_eq!(fake.input("one", "DEL").get("prevResult"), None, "{how}");
        assert_eq!(fake.records(), 0, "{how}");
    }
}

#[test]
fn a_damaged_record_keeps_no_pod_for_ever() {
    let fake = Fake::network(&["one"]);
    let cni = fake.cni();
    let damage = || fs::write(fake.directory.path().join("records/c1@eth0.json"), "").unwrap();
    cni.add(&attachment("c1")).unwrap();
    // A plugin that asks for a retry gets one.
    damage();
    fake.on("one", "DEL", r#"echo '{"code": 11, "msg": "later"}'; exit 1"#);
    assert_eq!(cni.delete(&attachment("c1")).unwrap_err().kind(), Kind::Busy);
    assert_eq!(fake.records(), 1);
    // One that cannot do without the result of ADD would fail in the same way each time.
    fake.on("one", "DEL", r#"echo '{"code": 7, "msg": "no prevResult"}'; exit 1"#);
    cni.delete(&attachment("c1")).unwrap();
    assert_eq!(fake.records(), 0);
    // Nor can anything be done without a network.
    damage();
    fs::remove_dir_all(fake.directory.path().join("conf")).unwrap();
    cni.delete(&attachment("c1")).unwrap();
    assert_eq!(fake.records(), 0);
}

#[test]
fn add_and_del_of_many_containers_run_side_by_side() {
    let fake = Fake::network(&["one"]);
    let cni = fake.cni();
    std::thread::scope(|scope| {
        for number in 0..8 {
            let cni = &cni;
            scope.spawn(move || {
                let attachment = attachment(&format!("c{number}"));
                cni.add(&attachment).unwrap();
                cni.delete(&attachment).unwrap();
            });
        }
    });
    assert_eq!((fake.calls().len(), fake.records()), (16, 0));
}
