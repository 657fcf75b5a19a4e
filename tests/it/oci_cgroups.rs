//! Limits: what the kernel is told, and what becomes of a payload that meets one.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::support::{Sandbox, wait_until};

/// A file of the container's cgroup: by controller and name on v1, by its other name on v2.
fn limit(cgroup: &str, v1: &str, v2: &str) -> String {
    let root = Path::new("/sys/fs/cgroup");
    let (controller, file) = v1.split_once('/').unwrap();
    let old = root.join(controller).join(cgroup).join(file);
    let path = if root.join("cgroup.controllers").exists() { root.join(cgroup).join(v2) } else { old };
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display())).trim().to_owned()
}

/// Runs a container from this fixture in a cgroup of its own name, asleep.
fn sleeping(fixture: &str) -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    let cgroup = sandbox.id("cgroup");
    let bundle = sandbox.bundle(fixture).args(&["/bin/sleep", "1000"]);
    let bundle = bundle.with("/linux/cgroupsPath", json!(format!("/{cgroup}")));
    sandbox.run_detached(&bundle, "web", &[]).ok();
    (sandbox, cgroup)
}

#[test]
fn the_memory_limit_is_set() {
    needs!(root, busybox, oci_verbs, cgroup_limits);
    let (_sandbox, cgroup) = sleeping("cgroup-memory");
    assert_eq!(limit(&cgroup, "memory/memory.limit_in_bytes", "memory.max"), "33554432");
    assert_eq!(limit(&cgroup, "memory/memory.soft_limit_in_bytes", "memory.low"), "16777216");
}

#[test]
fn the_cpu_limit_is_set() {
    needs!(root, busybox, oci_verbs, cgroup_limits);
    let (_sandbox, cgroup) = sleeping("cgroup-cpu");
    let quota = limit(&cgroup, "cpu/cpu.cfs_quota_us", "cpu.max");
    assert_eq!(quota.split(' ').next(), Some("20000"));
}

#[test]
fn the_process_limit_stops_forks() {
    needs!(root, busybox, oci_verbs, cgroup_limits);
    let sandbox = Sandbox::new();
    let output = sandbox.run(&sandbox.bundle("cgroup-pids"));
    assert!(output.stderr.contains("fork"), "{output}");
    let (_sandbox, cgroup) = sleeping("cgroup-pids");
    assert_eq!(limit(&cgroup, "pids/pids.max", "pids.max"), "4");
}

#[test]
fn a_payload_over_its_memory_limit_is_killed() {
    needs!(root, busybox, oci_verbs, cgroup_limits);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("cgroup-oom").with("/linux/resources/memory", json!({ "limit": 16_777_216 }));
    sandbox.run(&bundle).exits(137);
}

#[test]
fn the_cgroup_is_where_the_bundle_says_and_gone_after() {
    needs!(root, busybox, oci_verbs);
    let (sandbox, cgroup) = sleeping("minimal");
    let pid = sandbox.state("web")["pid"].as_i64().unwrap();
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(lines.lines().any(|line| line.ends_with(&format!(":/{cgroup}"))), "{lines}");
    sandbox.runtime(["delete", "--force", &sandbox.id("web")]).ok();
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn a_container_without_a_cgroup_path_gets_one_of_its_own() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("sleeping"), "web", &[]).ok();
    let pid = sandbox.state("web")["pid"].as_i64().unwrap();
    let lines = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(lines.lines().any(|line| line.contains(&sandbox.id("web"))), "{lines}");
}

#[test]
fn update_changes_a_limit_of_a_running_container() {
    needs!(root, busybox, oci_verbs, cgroup_limits);
    let (sandbox, cgroup) = sleeping("cgroup-pids");
    sandbox.runtime(["update", "--pids-limit", "9", &sandbox.id("web")]).ok();
    assert_eq!(limit(&cgroup, "pids/pids.max", "pids.max"), "9");
    let resources = json!({ "pids": { "limit": 12 }, "memory": { "limit": 67_108_864 } });
    let file = sandbox.path("resources.json");
    fs::write(&file, resources.to_string()).unwrap();
    sandbox.prepare(["update", "--resources"]).arg(file).arg(sandbox.id("web")).go().ok();
    assert_eq!(limit(&cgroup, "pids/pids.max", "pids.max"), "12");
    assert_eq!(limit(&cgroup, "memory/memory.limit_in_bytes", "memory.max"), "67108864");
}

#[test]
fn events_report_what_the_container_uses() {
    needs!(root, busybox, oci_verbs, cgroup_limits);
    not_by!(Crun: "crun has no events verb");
    let (sandbox, _cgroup) = sleeping("cgroup-memory");
    let output = sandbox.runtime(["events", "--stats", &sandbox.id("web")]).ok();
    let event: serde_json::Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(event["type"], "stats");
    assert!(event["data"]["memory"]["usage"]["usage"].as_u64().is_some_and(|used| used > 0), "{output}");
    assert_eq!(event["data"]["memory"]["usage"]["limit"], 33_554_432);
    assert_eq!(event["data"]["pids"]["current"], 1);
}

#[test]
fn events_tell_of_a_kill_for_want_of_memory_when_it_happens() {
    needs!(root, busybox, oci_verbs, cgroup_limits);
    not_by!(Crun: "crun has no events verb");
    let sandbox = Sandbox::new();
    let script = "sh -c 'x=$(head -c 100000000 /dev/zero | tr \"\\000\" x)'; echo child $?";
    let bundle = sandbox.bundle("cgroup-oom").script(script);
    sandbox.create(&bundle.with("/linux/resources/memory", json!({ "limit": 16_777_216 })), "web").ok();
    let told = sandbox.path("events");
    let read = || fs::read_to_string(&told).unwrap_or_default();
    let events = sandbox.prepare(["events", "--interval", "60m"]).arg(sandbox.id("web")).output_into(&told);
    let events = std::thread::spawn(|| events.go());
    wait_until("the first report", || read().contains("\"stats\"").then_some(()));
    sandbox.runtime(["start", &sandbox.id("web")]).ok();
    // It ends with the container, long before the next report is due.
    events.join().unwrap().ok();
    let told = read();
    let kinds: Vec<String> = told
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["type"].as_str().unwrap().to_owned()
        })
        .collect();
    // Some kernels kill its helpers, too.
    assert!(kinds.len() > 1 && kinds[0] == "stats" && kinds[1..].iter().all(|kind| kind == "oom"), "{told}");
}

#[test]
fn a_container_runs_where_cgroup2_has_no_controllers() {
    needs!(root, busybox, oci_verbs, cgroup2);
    let sandbox = Sandbox::new().with_cgroup2_view();
    let cgroup = sandbox.id("cgroup");
    let bundle = sandbox.bundle("minimal").with("/linux/cgroupsPath", json!(format!("/{cgroup}")));
    let bundle = bundle.script("grep ^0: /proc/self/cgroup");
    assert_eq!(sandbox.run(&bundle).ok().text(), format!("0::/{cgroup}"));
    assert_eq!(sandbox.traces(), []);
    let held: Vec<PathBuf> =
        fs::read_dir(sandbox.root()).map_or_else(|_| vec![], |d| d.flatten().map(|e| e.path()).collect());
    assert!(!held.iter().any(|path| path.ends_with(sandbox.id("run"))), "{held:?}");
}
