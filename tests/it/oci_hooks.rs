//! Hooks: when they run, what they are told, and what a failing one does (`config.md#posix-platform-hooks`).

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Bundle, Sandbox};

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

/// The bundle `hooks`, writing into its own `log` folder.
fn hooks(sandbox: &Sandbox) -> Bundle {
    let bundle = sandbox.bundle("hooks");
    let log = format!("LOG={}", bundle.path().join("log").display());
    bundle.edit(|config| {
        for kind in KINDS.iter().filter(|kind| **kind != "startContainer") {
            config["hooks"][kind][0]["env"] = json!([log]);
        }
    })
}

fn log(bundle: &Bundle) -> Vec<String> {
    let lines = fs::read_to_string(bundle.path().join("log/hooks")).unwrap_or_default();
    lines.lines().map(str::to_owned).collect()
}

fn told(bundle: &Bundle, kind: &str) -> Value {
    serde_json::from_slice(&fs::read(bundle.path().join(format!("log/{kind}.state"))).unwrap()).unwrap()
}

#[test]
fn hooks_run_in_their_order() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = hooks(&sandbox);
    let before = ["prestart", "createRuntime", "createContainer"];
    sandbox.create(&bundle, "web").ok();
    // runc 1.1 runs poststart here already.
    let is_known = |kind: &String| kind == "poststart" && !sandbox.runtime_kind().is_ours();
    assert_eq!(log(&bundle).into_iter().filter(|kind| !is_known(kind)).collect::<Vec<_>>(), before);
    sandbox.runtime(["start", &sandbox.id("web")]).ok();
    sandbox.wait_for_status("web", "stopped");
    // The payload and poststart run at the same time.
    let position = |kind: &str| log(&bundle).iter().position(|line| line == kind).unwrap();
    assert!(position("startContainer") < position("payload"), "{:?}", log(&bundle));
    assert!(position("poststart") > 2, "{:?}", log(&bundle));
    sandbox.runtime(["delete", &sandbox.id("web")]).ok();
    assert_eq!(log(&bundle).last().map(String::as_str), Some("poststop"));
    assert_eq!(log(&bundle).len(), 7);
}

#[test]
fn each_hook_is_told_the_containers_state() {
    needs!(root, busybox, oci_verbs);
    not_by!(Crun: "it says created where the specification says creating");
    let sandbox = Sandbox::new();
    let bundle = hooks(&sandbox);
    sandbox.create(&bundle, "web").ok();
    let pid = sandbox.state("web")["pid"].clone();
    sandbox.runtime(["start", &sandbox.id("web")]).ok();
    sandbox.wait_for_status("web", "stopped");
    sandbox.runtime(["delete", &sandbox.id("web")]).ok();
    let status = [("createRuntime", "creating"), ("createContainer", "creating"), ("poststop", "stopped")];
    for (kind, expected) in status {
        let state = told(&bundle, kind);
        assert_eq!(state["id"], sandbox.id("web"), "{kind}");
        assert_eq!(state["bundle"], bundle.path().to_str().unwrap(), "{kind}");
        assert_eq!(state["status"], expected, "{kind}");
    }
    assert_eq!(told(&bundle, "createRuntime")["pid"], pid);
    assert_eq!(told(&bundle, "poststart")["pid"], pid);
}

#[test]
fn a_failing_hook_before_the_start_undoes_the_creation() {
    needs!(root, busybox, oci_verbs);
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let sandbox = Sandbox::new();
        let failing = json!([{ "path": "/bin/sh", "args": ["sh", "-c", "echo reason >&2; exit 3"] }]);
        let bundle = hooks(&sandbox).with(&format!("/hooks/{kind}"), failing);
        sandbox.create(&bundle, "web").fails();
        assert_eq!(sandbox.status("web"), None, "{kind}");
        assert!(!log(&bundle).contains(&"payload".to_owned()), "{kind}");
        assert_eq!(sandbox.traces(), [], "{kind}");
    }
}

#[test]
fn a_failing_start_hook_keeps_the_payload_from_running() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let failing = json!([{ "path": "/bin/false" }]);
    let bundle = hooks(&sandbox).with("/hooks/startContainer", failing);
    sandbox.run(&bundle).fails();
    assert!(!log(&bundle).contains(&"payload".to_owned()), "{:?}", log(&bundle));
}

#[test]
fn a_failing_poststop_hook_does_not_keep_the_container() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let failing = json!([{ "path": "/bin/false" }]);
    let bundle = hooks(&sandbox).with("/hooks/poststop", failing);
    sandbox.run_detached(&bundle, "web", &[]).ok();
    sandbox.wait_for_status("web", "stopped");
    sandbox.runtime(["delete", &sandbox.id("web")]);
    assert_eq!(sandbox.status("web"), None);
}

#[test]
fn a_hook_is_ended_at_its_timeout() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let slow = json!([{ "path": "/bin/sleep", "args": ["sleep", "20"], "timeout": 1 }]);
    let bundle = hooks(&sandbox).with("/hooks/createRuntime", slow);
    let begin = Instant::now();
    sandbox.run(&bundle).fails();
    let took = begin.elapsed();
    assert!((Duration::from_millis(900)..Duration::from_secs(10)).contains(&took), "{took:?}");
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn a_missing_hook_is_named() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = hooks(&sandbox).with("/hooks/createRuntime", json!([{ "path": "/nowhere/hook" }]));
    let output = sandbox.run(&bundle).fails();
    assert!(output.stderr.contains("/nowhere/hook"), "{output}");
}

#[test]
fn a_hook_has_its_own_environment_and_arguments() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let out = sandbox.path("out");
    let script = format!("cat >/dev/null; {{ echo \"$0 $1\"; env; }} >{}", out.display());
    let hook =
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script, "named", "first"], "env": ["ONE=1"] }]);
    let bundle = sandbox.bundle("minimal").with("/hooks/createRuntime", hook);
    let run = sandbox.prepare(["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id("run"));
    run.env("OF_THE_CALLER", "leaks").go().ok();
    let seen = fs::read_to_string(out).unwrap();
    assert!(seen.starts_with("named first\n") && seen.contains("ONE=1\n"), "{seen}");
    assert!(!seen.contains("OF_THE_CALLER"), "{seen}");
}
