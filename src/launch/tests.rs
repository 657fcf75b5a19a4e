//! Snapshot tests: the plan of each configuration as text, compared with a file in `tests/plans/`.
//!
//! `CORACLE_SNAPSHOTS=write` rewrites the files; read the difference and give its reason in the commit.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::plan::Plan;
use super::request::{ExecRequest, Facts, Hierarchy, InitRequest, Options};
use crate::id::ContainerId;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap()
}

fn bundle(name: &str) -> Value {
    read(&repository("oci-fixtures/bundles").join(name).join("config.json"))
}

/// A host with cgroup v2.
fn v2() -> Facts {
    let paths = [(String::new(), PathBuf::from("/sys/fs/cgroup/box"))];
    Facts { unified: true, cgroup_paths: paths.into(), ..Facts::default() }
}

/// A host with cgroup v1.
fn v1() -> Facts {
    let hierarchy = |name: &str, options: &[&str]| Hierarchy {
        name: name.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
    };
    let hierarchies =
        vec![hierarchy("cpu,cpuacct", &["cpu", "cpuacct"]), hierarchy("systemd", &["none", "name=systemd"])];
    let paths =
        ["cpu", "name=systemd"].map(|name| (name.to_owned(), format!("/sys/fs/cgroup/{name}/box").into()));
    Facts { hierarchies, cgroup_paths: paths.into(), ..Facts::default() }
}

fn init(spec: &Value, facts: &Facts, options: Options) -> Plan {
    let (id, spec) = (ContainerId::parse("box").unwrap(), parse(spec));
    let (bundle, seccomp) = (Path::new("/bundle"), None);
    let root_is_given = false;
    Plan::for_init(&InitRequest { id: &id, spec: &spec, bundle, root_is_given, facts, seccomp, options })
        .unwrap_or_else(|error| panic!("{}", error.chain()))
}

fn exec(spec: &Value, facts: &Facts, options: Options) -> Plan {
    let (id, spec) = (ContainerId::parse("box").unwrap(), parse(spec));
    let process = spec.process().as_ref().unwrap();
    Plan::for_exec(&ExecRequest { id: &id, spec: &spec, process, facts, seccomp: None, options })
        .unwrap_or_else(|error| panic!("{}", error.chain()))
}

fn parse(spec: &Value) -> Spec {
    serde_json::from_value(spec.clone()).unwrap()
}

/// Prints a plan, one line per item.
fn print(plan: &Plan) -> String {
    let mut text = String::new();
    let Plan { opens, namespaces, steps, first_closed, program, oom_score_adj, listener: _ } = plan;
    for (slot, open) in opens.0.iter().enumerate() {
        writeln!(text, "open {slot}: {open:?}").unwrap();
    }
    writeln!(text, "namespaces: {namespaces:?}").unwrap();
    writeln!(text, "oom_score_adj: {oom_score_adj:?}").unwrap();
    for step in steps {
        writeln!(text, "{step:?}").unwrap();
    }
    writeln!(text, "close from {first_closed}").unwrap();
    writeln!(text, "program: {program:?}").unwrap();
    text
}

/// Compares a plan with the file of this name and returns the difference, if any.
fn compare(name: &str, plan: &Plan) -> Option<String> {
    let path = repository("tests/plans").join(format!("{name}.txt"));
    let text = print(plan);
    if std::env::var("CORACLE_SNAPSHOTS").is_ok_and(|what| what == "write") {
        fs::write(&path, text).unwrap();
        return None;
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (kept, text) = (lines(&kept), lines(&text));
    let only = |sign, one: &[String], other: &[String]| {
        let lines: Vec<_> = one.iter().filter(|line| !other.contains(line)).collect();
        lines.into_iter().map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    match (kept == text, only('-', &kept, &text) + &only('+', &text, &kept)) {
        (true, _) => None,
        (false, same) if same.is_empty() => Some(format!("{name}: the same lines in another order")),
        (false, different) => Some(format!("{name}:\n{different}")),
    }
}

fn with(mut spec: Value, pointer: &str, value: Value) -> Value {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    spec.pointer_mut(parent).unwrap()[key] = value;
    spec
}

/// The namespaces of a container in a pod; the pod's are joined by path.
fn in_pod(spec: Value, shared_pids: bool, user: bool) -> Value {
    let mut list = vec![
        json!({"type": "mount"}),
        json!({"type": "network", "path": "/run/pod/net"}),
        json!({"type": "ipc", "path": "/run/pod/ipc"}),
        json!({"type": "uts", "path": "/run/pod/uts"}),
        if shared_pids { json!({"type": "pid", "path": "/run/pod/pid"}) } else { json!({"type": "pid"}) },
    ];
    if user {
        list.push(json!({"type": "user", "path": "/run/pod/user"}));
    }
    let mut spec = with(spec, "/linux/namespaces", list.into());
    spec.as_object_mut().unwrap().remove("hostname");
    spec
}

/// Every plan, by the name of its file.
fn plans() -> BTreeMap<String, Plan> {
    let mut all = BTreeMap::new();
    let created = Options { wait_for_record: true, wait_for_start: true, ..Options::default() };
    for entry in fs::read_dir(repository("oci-fixtures/bundles")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        all.insert(format!("bundle-{name}"), init(&bundle(&name), &v2(), created));
    }
    for (name, spec) in configurations() {
        all.insert(name, init(&spec, &v2(), Options { parent_attaches: true, ..created }));
    }
    let none = Options::default();
    let minimal = || bundle("minimal");
    let mut add = |name: &str, plan| assert!(all.insert(name.to_owned(), plan).is_none());
    add("run", init(&minimal(), &v2(), none));
    add("run-on-v1", init(&bundle("cgroup-namespace"), &v1(), Options { parent_attaches: true, ..none }));
    add("run-without-pivot", init(&minimal(), &v2(), Options { no_pivot: true, ..none }));
    add("run-with-keyring-and-descriptors", {
        init(&minimal(), &v2(), Options { no_new_keyring: true, preserve_fds: 2, ..none })
    });
    let nested = Facts { in_user_namespace: true, ..v2() };
    add("run-rootless", init(&bundle("user-namespace"), &nested, none));
    add("run-devices-rootless", init(&bundle("devices"), &nested, none));
    add("joins", init(&in_pod(minimal(), false, false), &v2(), none));
    add("joins-pids", init(&in_pod(minimal(), true, false), &v2(), none));
    add("joins-pids-user-namespace", init(&in_pod(minimal(), true, true), &v2(), none));
    let chrooted = with(minimal(), "/linux/namespaces", json!([{"type": "pid"}]));
    let chrooted = with(with(chrooted, "/hostname", json!("")), "/mounts", json!([]));
    add("run-without-mount-namespace", {
        let without =
            with(with(chrooted.clone(), "/linux/maskedPaths", json!([])), "/linux/readonlyPaths", json!([]));
        init(&with(without, "/root/readonly", json!(false)), &v2(), none)
    });
    for name in ["minimal", "user", "user-namespace", "terminal", "capabilities", "rlimits"] {
        add(&format!("exec-{name}"), exec(&bundle(name), &v2(), Options { parent_attaches: true, ..none }));
    }
    add("exec-shared-pids", exec(&in_pod(minimal(), true, false), &v2(), none));
    add("exec-without-mount-namespace", exec(&chrooted, &v2(), none));
    all
}

/// The configurations that the typical requests of engines and kubelet lead to.
fn configurations() -> BTreeMap<String, Value> {
    let entries = fs::read_dir(repository("tests/it/container_specs")).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().extension().is_some_and(|ending| ending == "json"));
    files
        .map(|entry| {
            let name = entry.path().file_stem().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(entry.path()).unwrap();
            let mut spec =
                serde_json::from_str(&text.replace("SANDBOX/", "/sandbox/").replace("\"OWN\"", "0")).unwrap();
            complete(&mut spec);
            (name, spec)
        })
        .collect()
}

/// Replaces the placeholders in those files.
fn complete(spec: &mut Value) {
    if spec.pointer("/linux/seccomp").is_some_and(Value::is_string) {
        spec["linux"].as_object_mut().unwrap().remove("seccomp");
    }
    let every: Vec<String> = caps::all().iter().map(ToString::to_string).collect();
    for set in spec["process"]["capabilities"].as_object_mut().into_iter().flat_map(|sets| sets.values_mut())
    {
        if set.is_string() {
            *set = json!(every);
        }
    }
}

#[test]
fn plans_are_as_kept() {
    let plans = plans();
    assert!(plans.len() >= 75, "{}", plans.len());
    let different: Vec<String> = plans.iter().filter_map(|(name, plan)| compare(name, plan)).collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn every_kept_plan_is_one_of_these() {
    let plans = plans();
    for entry in fs::read_dir(repository("tests/plans")).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(plans.contains_key(&name), "tests/plans/{name}.txt belongs to nothing");
    }
}
