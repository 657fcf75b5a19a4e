//! `exec`: a further process in a running container.

use std::fs;

use serde_json::json;

use crate::support::{Sandbox, wait_until};

/// A sandbox with a container `web` that sleeps, made from this fixture.
fn sleeping(fixture: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle(fixture).args(&["/bin/sleep", "1000"]);
    sandbox.run_detached(&bundle, "web", &[]).ok();
    sandbox
}

#[test]
fn output_and_exit_code_pass_through() {
    needs!(root, busybox, oci_verbs);
    let sandbox = sleeping("minimal");
    let web = sandbox.id("web");
    let output = sandbox.runtime(["exec", &web, "/bin/sh", "-c", "echo out; echo err >&2; exit 5"]).exits(5);
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("out\n", "err\n"));
    let output = sandbox.runtime(["exec", &web, "/bin/sh", "-c", "kill -KILL $$"]);
    assert_eq!(output.code(), Some(137), "{output}");
}

#[test]
fn standard_input_reaches_the_process() {
    needs!(root, busybox, oci_verbs);
    let sandbox = sleeping("minimal");
    let run = sandbox.prepare(["exec", &sandbox.id("web"), "/bin/cat"]).input("typed");
    assert_eq!(run.go().ok().stdout, "typed");
}

#[test]
fn the_process_is_inside_every_namespace_of_the_container() {
    needs!(root, busybox, oci_verbs);
    let sandbox = sleeping("minimal");
    let pid = sandbox.state("web")["pid"].as_i64().unwrap();
    for namespace in ["pid", "net", "ipc", "uts", "mnt", "user", "cgroup"] {
        let link = format!("/proc/self/ns/{namespace}");
        let inside = sandbox.runtime(["exec", &sandbox.id("web"), "/bin/readlink", &link]).ok();
        let outside = fs::read_link(format!("/proc/{pid}/ns/{namespace}")).unwrap();
        assert_eq!(inside.text(), outside.to_str().unwrap());
    }
    let seen = sandbox.runtime(["exec", &sandbox.id("web"), "/bin/cat", "/proc/1/cmdline"]).ok();
    assert_eq!(seen.stdout, "/bin/sleep\x001000\0");
    let root = sandbox.runtime(["exec", &sandbox.id("web"), "/bin/ls", "/"]).ok();
    assert_eq!(root.stdout, "bin\ndev\netc\nproc\nroot\nsys\ntmp\n");
}

#[test]
fn without_a_mount_namespace_the_process_has_the_containers_root_all_the_same() {
    needs!(root, busybox, oci_verbs);
    not_by!(Runc: "it wants a /proc in the root before it changes to it");
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").args(&["/bin/sleep", "1000"]).edit(|config| {
        let namespaces = config["linux"]["namespaces"].as_array_mut().unwrap();
        namespaces.retain(|namespace| namespace["type"] != "mount");
        config["mounts"] = json!([]);
        for paths in ["maskedPaths", "readonlyPaths"] {
            config["linux"].as_object_mut().unwrap().remove(paths);
        }
    });
    sandbox.run_detached(&bundle, "web", &[]).ok();
    let root = sandbox.runtime(["exec", &sandbox.id("web"), "/bin/ls", "/"]).ok();
    assert!(root.stdout.starts_with("bin\n") && !root.stdout.contains("boot"), "{root}");
}

#[test]
fn the_process_is_in_the_containers_cgroup() {
    needs!(root, busybox, oci_verbs);
    let sandbox = sleeping("minimal");
    let pid = sandbox.state("web")["pid"].as_i64().unwrap();
    let inside = sandbox.runtime(["exec", &sandbox.id("web"), "/bin/cat", "/proc/self/cgroup"]).ok();
    assert_eq!(inside.stdout, fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap());
}

#[test]
fn environment_and_directory_come_from_the_container_and_the_options() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("sleeping").with_pushed("/process/env", json!("OF_THE_BUNDLE=yes"));
    sandbox.run_detached(&bundle, "web", &[]).ok();
    let run =
        sandbox.prepare(["exec", "--cwd", "/tmp", "--env", "ADDED=a b", &sandbox.id("web"), "sh", "-c"]);
    let output = run.arg("pwd; echo $ADDED; echo $OF_THE_BUNDLE; echo ${OF_THE_CALLER-none}");
    let output = output.env("OF_THE_CALLER", "leaks").go().ok();
    assert_eq!(output.stdout, "/tmp\na b\nyes\nnone\n");
}

#[test]
fn the_user_is_as_asked() {
    needs!(root, busybox, oci_verbs);
    not_by!(Crun: "its exec has no --additional-gids");
    let sandbox = sleeping("minimal");
    let id = "id -u; id -g; grep Groups /proc/self/status";
    let run = sandbox.prepare(["exec", "--user", "1000:1001", "--additional-gids", "44"]);
    let output = run.args([&sandbox.id("web"), "/bin/sh", "-c", id]).go().ok();
    let lines: Vec<_> = output.stdout.lines().map(str::trim).collect();
    assert_eq!(lines[..2], ["1000", "1001"]);
    assert!(lines[2].split_whitespace().any(|group| group == "44"), "{output}");
}

#[test]
fn a_process_file_describes_the_process() {
    needs!(root, busybox, oci_verbs);
    let sandbox = sleeping("minimal");
    let process = json!({
        "user": { "uid": 7, "gid": 8 },
        "args": ["/bin/sh", "-c", "id -u; id -g; pwd; echo $ONE; grep CapEff /proc/self/status; exit 4"],
        "env": ["ONE=1", "PATH=/bin"],
        "cwd": "/etc",
    });
    fs::write(sandbox.path("process.json"), process.to_string()).unwrap();
    let run = sandbox.prepare(["exec", "--process"]).arg(sandbox.path("process.json")).arg(sandbox.id("web"));
    let output = run.go().exits(4);
    assert_eq!(output.stdout, "7\n8\n/etc\n1\nCapEff:\t0000000000000000\n");
}

#[test]
fn a_detached_process_goes_on_and_its_pid_is_written() {
    needs!(root, busybox, oci_verbs);
    let sandbox = sleeping("minimal");
    let file = sandbox.path("pid");
    let run = sandbox.prepare(["exec", "--detach", "--pid-file"]).arg(&file).arg(sandbox.id("web"));
    run.args(["/bin/sleep", "2000"]).output_into(&sandbox.path("log")).go().ok();
    let pid = fs::read_to_string(file).unwrap();
    wait_until("the process to be a sleep", || {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        (line == "/bin/sleep\x002000\0").then_some(())
    });
}

#[test]
fn no_file_descriptor_leaks_into_the_process() {
    needs!(root, busybox, oci_verbs);
    let sandbox = sleeping("minimal");
    let output = sandbox.runtime(["exec", &sandbox.id("web"), "/bin/ls", "/proc/self/fd"]).ok();
    assert_eq!(output.stdout, "0\n1\n2\n3\n");
}

#[test]
fn capabilities_and_privileges_are_the_containers() {
    needs!(root, busybox, oci_verbs);
    not_by!(Crun: "its exec does not take noNewPrivileges from the bundle");
    let sandbox = sleeping("minimal");
    let status = sandbox.runtime(["exec", &sandbox.id("web"), "/bin/cat", "/proc/self/status"]).ok();
    status.has_line("CapEff:\t0000000020000420");
    status.has_line("CapBnd:\t0000000020000420");
    status.has_line("NoNewPrivs:\t1");
    let run =
        sandbox.prepare(["exec", "--cap", "CAP_CHOWN", &sandbox.id("web"), "/bin/cat", "/proc/self/status"]);
    run.go().ok().has_line("CapEff:\t0000000020000421");
}

#[test]
fn the_containers_limits_and_filters_hold() {
    needs!(root, busybox, oci_verbs, seccomp);
    not_by!(Crun: "its exec does not take limits from the bundle");
    let sandbox = sleeping("rlimits");
    let limits = sandbox.runtime(["exec", &sandbox.id("web"), "/bin/sh", "-c", "ulimit -t; ulimit -Hn"]).ok();
    assert_eq!(limits.stdout, "100\n128\n");
    let sandbox = sleeping("seccomp-errno");
    let output = sandbox.runtime(["exec", &sandbox.id("web"), "/bin/mkdir", "/tmp/new"]).fails();
    assert!(output.stderr.contains("not supported"), "{output}");
}

#[test]
fn a_user_namespace_is_joined_with_its_ids() {
    needs!(root, busybox, oci_verbs, user_namespaces);
    let sandbox = sleeping("user-namespace");
    let output =
        sandbox.runtime(["exec", &sandbox.id("web"), "/bin/sh", "-c", "id -u; cat /proc/self/uid_map"]).ok();
    let words: Vec<_> = output.stdout.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "100000", "65536"]);
}

#[test]
fn a_missing_executable_is_named_and_the_container_lives_on() {
    needs!(root, busybox, oci_verbs);
    let sandbox = sleeping("minimal");
    let output = sandbox.runtime(["exec", &sandbox.id("web"), "/bin/not-there"]).fails();
    assert!(output.stderr.contains("not-there"), "{output}");
    assert_eq!(sandbox.status("web").as_deref(), Some("running"));
    sandbox.runtime(["exec", &sandbox.id("web"), "/bin/true"]).ok();
}

#[test]
fn a_stopped_container_takes_no_process() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("minimal"), "web", &[]).ok();
    sandbox.wait_for_status("web", "stopped");
    sandbox.runtime(["exec", &sandbox.id("web"), "/bin/true"]).fails();
}

#[test]
fn a_process_ends_with_its_container() {
    needs!(root, busybox, oci_verbs);
    let sandbox = sleeping("minimal");
    let run = sandbox.prepare(["exec", "--detach", &sandbox.id("web"), "/bin/sleep", "2000"]);
    run.output_into(&sandbox.path("log")).go().ok();
    sandbox.runtime(["delete", "--force", &sandbox.id("web")]).ok();
    wait_until("both processes to be gone", || sandbox.traces().is_empty().then_some(()));
}
