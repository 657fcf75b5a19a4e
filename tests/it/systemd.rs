//! The systemd driver: containers as scopes of a systemd that runs. Guests have one (tests/vm/run --systemd).

use std::collections::BTreeMap;

use serde_json::json;

use crate::support::{Bundle, Run, Sandbox};

/// A bundle that asks for the scope `coracle-<id>.scope` in `slice`.
fn scoped(sandbox: &Sandbox, bundle: Bundle, slice: &str) -> (Bundle, String) {
    let name = sandbox.id("scope").replace('.', "_");
    let path = format!("{slice}:coracle:{name}");
    (bundle.with("/linux/cgroupsPath", json!(path)), format!("coracle-{name}.scope"))
}

/// What systemd knows of a unit.
fn show(unit: &str) -> BTreeMap<String, String> {
    let output = Run::new("systemctl").args(["show", unit]).go().ok();
    let pairs = output.stdout.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[track_caller]
fn assert_has(unit: &str, expected: &[(&str, &str)]) {
    let found = show(unit);
    for (key, value) in expected {
        assert_eq!(found.get(*key).map(String::as_str), Some(*value), "{key} of {unit}: {found:#?}");
    }
}

#[test]
fn a_container_is_a_scope_with_its_limits() {
    needs!(root, busybox, oci_verbs, systemd);
    let sandbox = Sandbox::new();
    let (bundle, unit) = scoped(&sandbox, sandbox.bundle("sleeping"), "system.slice");
    let bundle = bundle.with(
        "/linux/resources",
        json!({
            "devices": [{ "allow": false, "access": "rwm" }],
            "memory": { "limit": 67_108_864, "reservation": 33_554_432 },
            "pids": { "limit": 50 },
            "cpu": { "shares": 2048, "quota": 30_000, "period": 100_000, "cpus": "0" }
        }),
    );
    sandbox
        .prepare(["--systemd-cgroup", "run", "--detach", "--bundle"])
        .arg(bundle.path())
        .arg(sandbox.id("web"))
        .output_into(&sandbox.path("web.out"))
        .go()
        .ok();
    assert_has(
        &unit,
        &[
            ("ActiveState", "active"),
            ("Slice", "system.slice"),
            ("Delegate", "yes"),
            ("MemoryMax", "67108864"),
            ("MemoryLow", "33554432"),
            ("TasksMax", "50"),
            ("CPUQuotaPerSecUSec", "300ms"),
            ("AllowedCPUs", "0"),
        ],
    );
    let group = format!("/sys/fs/cgroup/system.slice/{unit}");
    let read = |file: &str| std::fs::read_to_string(format!("{group}/{file}")).unwrap().trim().to_owned();
    assert_eq!(read("memory.max"), "67108864");
    assert_eq!(read("pids.max"), "50");
    assert_eq!(read("cpu.max"), "30000 100000");
    assert_eq!(read("cpuset.cpus.effective"), "0");
    assert_eq!(read("cgroup.procs"), sandbox.state("web")["pid"].to_string());

    // systemd writes its own idea of the limits when it reloads: it must have ours.
    sandbox.runtime(["update", "--pids-limit", "60", &sandbox.id("web")]).ok();
    Run::new("systemctl").arg("daemon-reload").go().ok();
    assert_has(&unit, &[("TasksMax", "60")]);
    assert_eq!(read("pids.max"), "60");
    assert_eq!(read("memory.max"), "67108864");

    sandbox.runtime(["delete", "--force", &sandbox.id("web")]).ok();
    assert_has(&unit, &[("LoadState", "not-found")]);
    assert!(!std::path::Path::new(&group).exists());
}

#[test]
fn devices_are_filtered_in_a_scope_too() {
    needs!(root, busybox, oci_verbs, systemd);
    let sandbox = Sandbox::new();
    let (bundle, _) = scoped(&sandbox, sandbox.bundle("devices"), "system.slice");
    let bundle = bundle.with("/linux/resources/devices/1/allow", json!(false));
    let bundle = bundle.script("head -c 0 /dev/journal && echo opened; : >/dev/null && echo null");
    let run = sandbox.prepare(["--systemd-cgroup", "run", "--bundle"]).arg(bundle.path());
    assert_eq!(run.arg(sandbox.id("run")).go().ok().stdout, "null\n");
}

#[test]
fn a_slice_that_is_not_there_is_made() {
    needs!(root, busybox, oci_verbs, systemd);
    let sandbox = Sandbox::new();
    let (bundle, unit) = scoped(&sandbox, sandbox.bundle("minimal"), "coracletest-inner.slice");
    let bundle = bundle.script("cat /proc/self/cgroup");
    let run = sandbox.prepare(["--systemd-cgroup", "run", "--bundle"]).arg(bundle.path());
    let output = run.arg(sandbox.id("run")).go().ok();
    assert_eq!(output.text(), format!("0::/coracletest.slice/coracletest-inner.slice/{unit}"));
    assert_has(&unit, &[("LoadState", "not-found")]);
}

#[test]
fn a_payload_that_cannot_start_leaves_no_scope() {
    needs!(root, busybox, oci_verbs, systemd);
    let sandbox = Sandbox::new();
    let (bundle, unit) = scoped(&sandbox, sandbox.bundle("minimal").args(&["/bin/nothing"]), "system.slice");
    let run = sandbox.prepare(["--systemd-cgroup", "run", "--bundle"]).arg(bundle.path());
    run.arg(sandbox.id("run")).go().fails();
    assert_has(&unit, &[("LoadState", "not-found")]);
    assert_eq!(sandbox.traces(), []);
}
