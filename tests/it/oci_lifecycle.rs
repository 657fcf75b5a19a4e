//! `create`, `start`, `state`, `kill`, `delete` and their kin: the life cycle as `runtime.md#lifecycle` has it.

use std::fs;

use serde_json::{Value, json};

use crate::support::{Sandbox, wait_until};

#[test]
fn create_prepares_and_start_runs() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").script("echo up; exec sleep 1000");
    sandbox.create(&bundle, "web").ok();
    assert_eq!(sandbox.status("web").as_deref(), Some("created"));
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(sandbox.output_of("web"), "", "the payload must not run before start");
    sandbox.runtime(["start", &sandbox.id("web")]).ok();
    sandbox.wait_for_output("web", "up\n");
    assert_eq!(sandbox.status("web").as_deref(), Some("running"));
}

#[test]
fn state_tells_what_the_specification_asks() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("annotations").args(&["/bin/sleep", "1000"]);
    sandbox.create(&bundle, "web").ok();
    let state = sandbox.state("web");
    assert_eq!(state["id"], sandbox.id("web"));
    assert_eq!(state["status"], "created");
    assert_eq!(state["bundle"], bundle.path().to_str().unwrap());
    assert_eq!(state["annotations"], json!({"org.example.owner": "harbour", "org.example.note": "a b=c"}));
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."), "{state}");
    let pid = state["pid"].as_i64().unwrap();
    assert!(fs::exists(format!("/proc/{pid}")).unwrap(), "the created container has a process");
}

#[test]
fn a_relative_bundle_path_is_recorded_absolute() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("sleeping");
    let run = sandbox.prepare(["create", "--bundle", "sleeping"]).arg(sandbox.id("web"));
    run.cwd(bundle.path().parent().unwrap()).output_into(&sandbox.path("log")).go().ok();
    assert_eq!(sandbox.state("web")["bundle"], bundle.path().to_str().unwrap());
}

#[test]
fn a_payload_that_ends_leaves_a_stopped_container() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("minimal"), "web", &[]).ok();
    sandbox.wait_for_status("web", "stopped");
    assert_eq!(sandbox.output_of("web"), "hello\n");
    sandbox.runtime(["delete", &sandbox.id("web")]).ok();
    assert_eq!(sandbox.status("web"), None);
}

#[test]
fn changes_to_the_configuration_after_create_have_no_effect() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal");
    sandbox.create(&bundle, "web").ok();
    bundle.script("echo changed");
    sandbox.runtime(["start", &sandbox.id("web")]).ok();
    sandbox.wait_for_status("web", "stopped");
    assert_eq!(sandbox.output_of("web"), "hello\n");
}

#[test]
fn every_verb_refuses_an_unknown_container() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let id = sandbox.id("nobody");
    for verb in [vec!["state"], vec!["start"], vec!["kill"], vec!["delete"], vec!["pause"], vec!["resume"]] {
        let output = sandbox.prepare(&verb).arg(&id).go().fails();
        // crun only says that there is no such file.
        assert!(output.stderr.contains("not exist") || output.stderr.contains("No such"), "{output}");
    }
    sandbox.runtime(["exec", &id, "/bin/true"]).fails();
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn a_container_starts_once() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("sleeping"), "web", &[]).ok();
    sandbox.runtime(["start", &sandbox.id("web")]).fails();
    assert_eq!(sandbox.status("web").as_deref(), Some("running"));
    sandbox.runtime(["kill", &sandbox.id("web"), "KILL"]).ok();
    sandbox.wait_for_status("web", "stopped");
    sandbox.runtime(["start", &sandbox.id("web")]).fails();
}

#[test]
fn kill_sends_the_signal_however_it_is_written() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let script = "for s in TERM HUP USR1 INT; do trap \"echo got $s\" $s; done; echo ready; while :; do sleep 0.02; done";
    sandbox.run_detached(&sandbox.bundle("minimal").script(script), "web", &[]).ok();
    sandbox.wait_for_output("web", "ready\n");
    for (written, name) in [("SIGHUP", "HUP"), ("USR1", "USR1"), ("2", "INT")] {
        sandbox.runtime(["kill", &sandbox.id("web"), written]).ok();
        sandbox.wait_for_output("web", &format!("got {name}\n"));
    }
    sandbox.runtime(["kill", &sandbox.id("web")]).ok();
    sandbox.wait_for_output("web", "got TERM\n");
}

#[test]
fn kill_refuses_a_signal_that_is_none() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("sleeping"), "web", &[]).ok();
    for signal in ["SIGNONE", "-1", "99999"] {
        sandbox.runtime(["kill", &sandbox.id("web"), signal]).fails();
    }
    assert_eq!(sandbox.status("web").as_deref(), Some("running"));
}

#[test]
fn a_created_container_can_be_killed() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.create(&sandbox.bundle("sleeping"), "web").ok();
    sandbox.runtime(["kill", &sandbox.id("web"), "KILL"]).ok();
    sandbox.wait_for_status("web", "stopped");
}

#[test]
fn a_stopped_container_cannot_be_killed() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("minimal"), "web", &[]).ok();
    sandbox.wait_for_status("web", "stopped");
    sandbox.runtime(["kill", &sandbox.id("web"), "TERM"]).fails();
}

#[test]
fn a_running_container_is_not_deleted_without_force() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("sleeping"), "web", &[]).ok();
    sandbox.runtime(["delete", &sandbox.id("web")]).fails();
    assert_eq!(sandbox.status("web").as_deref(), Some("running"));
    sandbox.runtime(["delete", "--force", &sandbox.id("web")]).ok();
    assert_eq!(sandbox.status("web"), None);
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn deleting_nothing_by_force_is_no_error() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.runtime(["delete", "--force", &sandbox.id("nobody")]).ok();
}

#[test]
fn a_created_container_is_deleted_by_force() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.create(&sandbox.bundle("sleeping"), "web").ok();
    sandbox.runtime(["delete", "--force", &sandbox.id("web")]).ok();
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn an_id_can_be_used_again_after_delete() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("sleeping");
    for _ in 0..3 {
        sandbox.create(&bundle, "web").ok();
        sandbox.runtime(["delete", "--force", &sandbox.id("web")]).ok();
    }
}

#[test]
fn a_container_whose_process_was_killed_from_outside_is_stopped() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("sleeping"), "web", &[]).ok();
    let pid = sandbox.state("web")["pid"].as_i64().unwrap();
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    sandbox.wait_for_status("web", "stopped");
    assert_eq!(sandbox.state("web")["pid"].as_i64().unwrap_or(0), 0, "a stopped container has no process");
    sandbox.runtime(["delete", &sandbox.id("web")]).ok();
}

#[test]
fn containers_without_a_pid_namespace_die_whole() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let script = "setsid sleep 1000 & setsid sleep 1000 & echo up; exec sleep 1000";
    let bundle = sandbox.bundle("minimal").without_namespace("pid").script(script);
    sandbox.run_detached(&bundle, "web", &[]).ok();
    sandbox.wait_for_output("web", "up\n");
    sandbox.runtime(["delete", "--force", &sandbox.id("web")]).ok();
    wait_until("all three processes to be gone", || sandbox.traces().is_empty().then_some(()));
}

/// As runc 1.2: nothing else ends them.
#[test]
fn what_a_container_without_a_pid_namespace_leaves_can_be_killed() {
    needs!(root, busybox, oci_verbs);
    not_by!(Runc: "version 1.1 refuses it");
    let sandbox = Sandbox::new();
    let script = "setsid sleep 1000 & echo up; exit 0";
    let bundle = sandbox.bundle("minimal").without_namespace("pid").script(script);
    sandbox.run_detached(&bundle, "web", &[]).ok();
    sandbox.wait_for_status("web", "stopped");
    assert!(sandbox.runtime(["kill", &sandbox.id("web"), "TERM"]).fails().stderr.contains("not running"));
    sandbox.runtime(["kill", &sandbox.id("web"), "KILL"]).ok();
    let killed =
        || sandbox.runtime(["kill", &sandbox.id("web"), "KILL"]).stderr.contains("not running").then_some(());
    wait_until("the others to be gone", killed);
    sandbox.runtime(["delete", &sandbox.id("web")]).ok();
}

#[test]
fn list_shows_each_container() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("sleeping");
    assert_eq!(sandbox.runtime(["list", "--quiet"]).ok().text(), "");
    sandbox.run_detached(&bundle, "one", &[]).ok();
    sandbox.create(&bundle, "two").ok();
    let quiet = sandbox.runtime(["list", "--quiet"]).ok();
    let mut ids: Vec<_> = quiet.stdout.lines().collect();
    ids.sort_unstable();
    assert_eq!(ids, [sandbox.id("one"), sandbox.id("two")]);
    let table = sandbox.runtime(["list"]).ok();
    let row = table.stdout.lines().find(|line| line.starts_with(&sandbox.id("one"))).unwrap();
    assert!(row.contains("running") && row.contains(bundle.path().to_str().unwrap()), "{table}");
    let list = sandbox.runtime(["list", "--format", "json"]).ok();
    let list: Value = serde_json::from_str(&list.stdout).unwrap();
    let status = |name: &str| {
        let id = sandbox.id(name);
        list.as_array()
            .unwrap()
            .iter()
            .find(|c| c["id"] == *id)
            .map(|c| c["status"].as_str().unwrap().to_owned())
    };
    assert_eq!(status("one").as_deref(), Some("running"));
    assert_eq!(status("two").as_deref(), Some("created"));
}

#[test]
fn ps_names_the_containers_processes() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("minimal").script("sleep 1000 & echo up; wait"), "web", &[]).ok();
    sandbox.wait_for_output("web", "up\n");
    let init = sandbox.state("web")["pid"].as_i64().unwrap();
    let output = sandbox.runtime(["ps", "--format", "json", &sandbox.id("web")]).ok();
    let pids: Vec<i64> = serde_json::from_str(&output.stdout).unwrap();
    assert!(pids.len() == 2 && pids.contains(&init), "{output}");
}

#[test]
fn a_paused_container_stands_still_until_resumed() {
    needs!(root, busybox, oci_verbs, cgroup_limits);
    let sandbox = Sandbox::new();
    let script = "while :; do echo tick; sleep 0.02; done";
    sandbox.run_detached(&sandbox.bundle("minimal").script(script), "web", &[]).ok();
    sandbox.wait_for_output("web", "tick\ntick\n");
    sandbox.runtime(["pause", &sandbox.id("web")]).ok();
    assert_eq!(sandbox.status("web").as_deref(), Some("paused"));
    let before = sandbox.output_of("web").len();
    std::thread::sleep(std::time::Duration::from_millis(200));
    assert_eq!(sandbox.output_of("web").len(), before);
    sandbox.runtime(["resume", &sandbox.id("web")]).ok();
    assert_eq!(sandbox.status("web").as_deref(), Some("running"));
    wait_until("the payload to go on", || (sandbox.output_of("web").len() > before).then_some(()));
}

#[test]
fn a_paused_container_is_deleted_by_force() {
    needs!(root, busybox, oci_verbs, cgroup_limits);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("sleeping"), "web", &[]).ok();
    sandbox.runtime(["pause", &sandbox.id("web")]).ok();
    sandbox.runtime(["delete", "--force", &sandbox.id("web")]).ok();
    assert_eq!(sandbox.status("web"), None);
}

#[test]
fn spec_writes_a_bundle_configuration_that_runs() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal");
    fs::remove_file(bundle.path().join("config.json")).unwrap();
    sandbox.prepare(["spec", "--bundle"]).arg(bundle.path()).go().ok();
    sandbox.prepare(["spec", "--bundle"]).arg(bundle.path()).go().fails();
    let bundle = bundle.with("/process/terminal", json!(false)).script("echo runs");
    assert_eq!(sandbox.run(&bundle).ok().text(), "runs");
}

#[test]
fn features_names_what_the_runtime_can_do() {
    needs!(root, busybox, oci_verbs);
    not_by!(Crun: "crun has no features verb before 1.9");
    let sandbox = Sandbox::new();
    let features: Value = serde_json::from_str(&sandbox.runtime(["features"]).ok().stdout).unwrap();
    let has = |pointer: &str, item: &str| {
        let list = features.pointer(pointer).and_then(Value::as_array);
        list.is_some_and(|list| list.iter().any(|entry| entry == item))
    };
    assert!(has("/hooks", "createRuntime") && has("/hooks", "startContainer"), "{features}");
    assert!(has("/mountOptions", "ro") && has("/mountOptions", "rbind"), "{features}");
    assert!(has("/linux/namespaces", "pid") && has("/linux/capabilities", "CAP_CHOWN"), "{features}");
}
