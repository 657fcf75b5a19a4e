//! `run`: from bundle to payload and back, in the foreground.

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Run, Sandbox, wait_until};

#[test]
fn the_payloads_output_passes_through() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let output = sandbox.run(&sandbox.bundle("minimal").script("echo to stdout; echo to stderr >&2")).ok();
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("to stdout\n", "to stderr\n"));
}

#[test]
fn the_payloads_exit_code_is_the_commands() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let mut bundle = sandbox.bundle("minimal");
    for code in [0, 1, 42, 127, 255] {
        bundle = bundle.script(&format!("exit {code}"));
        sandbox.run(&bundle).exits(code);
    }
}

#[test]
fn a_payload_killed_by_a_signal_gives_128_and_the_signal() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    // As PID 1 the shell would survive its own signal; its child does not.
    let script = "sh -c 'kill -TERM $$'; exit $?";
    sandbox.run(&sandbox.bundle("minimal").script(script)).exits(143);
    let id = sandbox.id("killed");
    let ready = sandbox.bundle("sleeping");
    let script = format!(
        "{{ until \"$@\" state {id} 2>/dev/null | grep -q '\"running\"'; do sleep 0.02; done; \"$@\" kill {id} KILL; }} & \
         \"$@\" run --bundle {} {id}; code=$?; wait; exit $code",
        ready.path().display()
    );
    sandbox.prepare_script(&script, [""; 0]).go().exits(137);
}

#[test]
fn standard_input_reaches_the_payload() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").args(&["/bin/cat"]);
    let run = sandbox.prepare(["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id("run"));
    assert_eq!(run.input("one\ntwo").go().ok().stdout, "one\ntwo");
}

#[test]
fn large_output_arrives_whole() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let output =
        sandbox.run(&sandbox.bundle("minimal").script("head -c 3000000 /dev/zero | tr '\\0' x")).ok();
    assert_eq!(output.stdout.len(), 3_000_000);
}

#[test]
fn arguments_arrive_as_they_are() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let odd = ["two words", "", "'quoted\"", "$HOME", "back\\slash", "new\nline", "ünïcode", "--help"];
    let bundle = sandbox.bundle("minimal").edit(|config| {
        let print = json!(["/bin/sh", "-c", "printf '<%s>' \"$@\"", "sh"]);
        config["process"]["args"] = print;
        config["process"]["args"].as_array_mut().unwrap().extend(odd.iter().map(|a| json!(a)));
    });
    let expected: String = odd.iter().map(|a| format!("<{a}>")).collect();
    assert_eq!(sandbox.run(&bundle).ok().stdout, expected);
}

#[test]
fn the_environment_is_the_bundles_and_not_the_callers() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox
        .bundle("minimal")
        .args(&["/bin/env"])
        .with("/process/env", json!(["PATH=/bin", "EMPTY=", "SPACED=a b", "EQUALS=x=y"]));
    let run = sandbox.prepare(["run", "--bundle"]).arg(bundle.path()).arg(sandbox.id("run"));
    let output = run.env("OF_THE_CALLER", "leaks").go().ok();
    for line in ["PATH=/bin", "EMPTY=", "SPACED=a b", "EQUALS=x=y"] {
        output.has_line(line);
    }
    // HOME is the one variable that a runtime adds.
    let others = output.stdout.lines().filter(|line| !line.starts_with("HOME="));
    assert_eq!(others.count(), 4, "{output}");
}

#[test]
fn home_comes_from_passwd_when_the_bundle_has_none() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").script("echo $HOME");
    assert_eq!(sandbox.run(&bundle).ok().text(), "/root");
    let bundle = bundle.with_pushed("/process/env", json!("HOME=/elsewhere"));
    assert_eq!(sandbox.run(&bundle).ok().text(), "/elsewhere");
}

#[test]
fn the_working_directory_is_the_bundles() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").args(&["/bin/pwd"]).with("/process/cwd", json!("/tmp"));
    assert_eq!(sandbox.run(&bundle).ok().text(), "/tmp");
}

#[test]
fn the_command_is_looked_up_in_the_containers_path() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle =
        sandbox.bundle("minimal").args(&["greet"]).with("/process/env", json!(["PATH=/none:/opt/x:/bin"]));
    fs::create_dir_all(bundle.root().join("opt/x")).unwrap();
    let bundle = bundle.with_file("opt/x/greet", "#!/bin/sh\necho from the path\n");
    Run::new("chmod").arg("755").arg(bundle.root().join("opt/x/greet")).go().ok();
    assert_eq!(sandbox.run(&bundle).ok().text(), "from the path");
}

#[test]
fn the_payload_is_process_one_of_its_own_session() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let output = sandbox.run(&sandbox.bundle("minimal").args(&["/bin/cat", "/proc/self/stat"])).ok();
    let fields: Vec<_> = output.text().split(' ').collect();
    assert_eq!((fields[0], fields[3], fields[5]), ("1", "0", "1"), "pid, parent, session: {output}");
}

#[test]
fn the_payload_inherits_no_blocked_or_ignored_signals() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let output = sandbox.run(&sandbox.bundle("minimal").args(&["/bin/cat", "/proc/self/status"])).ok();
    for set in ["SigBlk:\t", "SigIgn:\t"] {
        let line = output.stdout.lines().find_map(|line| line.strip_prefix(set)).unwrap();
        // The real-time signals above are the C library's own; some posix_spawn leaves them ignored for every child.
        let ordinary = u64::from_str_radix(line, 16).unwrap() & 0x7fff_ffff;
        assert_eq!(ordinary, 0, "{set}{line}");
    }
}

#[test]
fn no_file_descriptor_of_the_caller_leaks_into_the_payload() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").args(&["/bin/ls", "/proc/self/fd"]);
    let script = "exec 7</etc/passwd 9</ 33<&1; \"$@\"";
    let run = sandbox.prepare_script(script, ["run", "--bundle"]).arg(bundle.path());
    let output = run.arg(sandbox.id("run")).go().ok();
    // The fourth is the directory that ls itself has open.
    assert_eq!(output.stdout, "0\n1\n2\n3\n");
}

#[test]
fn preserve_fds_hands_the_named_number_over() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").script("cat <&3; ls /proc/self/fd");
    let script = "exec 3<<<handed 4</ ; \"$@\"";
    let run = sandbox.prepare_script(script, ["run", "--preserve-fds", "1", "--bundle"]);
    let output = run.arg(bundle.path()).arg(sandbox.id("run")).go().ok();
    // 4 is the directory that ls itself has open; the caller's 4 was not to be passed.
    assert_eq!(output.stdout, "handed\n0\n1\n2\n3\n4\n");
}

#[test]
fn the_bundle_is_the_current_directory_by_default() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal");
    let output = sandbox.prepare(["run"]).arg(sandbox.id("run")).cwd(bundle.path()).go().ok();
    assert_eq!(output.text(), "hello");
}

#[test]
fn a_detached_run_returns_while_the_payload_goes_on() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run_detached(&sandbox.bundle("minimal").script("echo up; exec sleep 1000"), "web", &[]).ok();
    sandbox.wait_for_output("web", "up\n");
    assert_eq!(sandbox.status("web").as_deref(), Some("running"));
}

#[test]
fn the_pid_file_names_the_containers_process() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let file = sandbox.path("pid");
    let options = ["--pid-file", file.to_str().unwrap()];
    sandbox.run_detached(&sandbox.bundle("sleeping"), "web", &options).ok();
    let pid = fs::read_to_string(file).unwrap();
    assert_eq!(sandbox.state("web")["pid"], json!(pid.parse::<i32>().unwrap()), "a bare number, no newline");
    wait_until("the payload to be a sleep", || {
        let line = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
        (line == "sleep\x001000\0").then_some(())
    });
}

#[test]
fn nothing_is_left_after_a_run() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal");
    for _ in 0..5 {
        assert_eq!(sandbox.run(&bundle).ok().text(), "hello");
        assert_eq!(sandbox.status("run"), None);
    }
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn processes_that_outlive_the_payload_end_with_it() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    sandbox.run(&sandbox.bundle("minimal").script("setsid sleep 1000 & setsid sleep 1000 & exit 3")).exits(3);
    wait_until("the container's processes to be gone", || sandbox.traces().is_empty().then_some(()));
}

#[test]
fn a_signal_to_the_command_is_forwarded_to_the_payload() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let payload = "trap 'echo got it; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let bundle = sandbox.bundle("minimal").script(payload);
    let log = sandbox.path("log");
    let script = format!(
        "log={}; : >$log; \"$@\" >>$log 2>&1 & pid=$!; until grep -q ready $log; do sleep 0.02; done; \
         kill -TERM $pid; wait $pid; code=$?; cat $log; exit $code",
        log.display()
    );
    let run = sandbox.prepare_script(&script, ["run", "--bundle"]).arg(bundle.path());
    let output = run.arg(sandbox.id("run")).go().exits(9);
    assert_eq!(output.stdout, "ready\ngot it\n");
}

#[test]
fn a_missing_executable_is_named_and_nothing_is_left() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    for command in ["/bin/not-there", "not-there"] {
        let output = sandbox.run(&sandbox_bundle(&sandbox, command)).fails();
        assert!(output.stderr.contains("not-there"), "{output}");
        assert_eq!(sandbox.traces(), []);
    }
}

fn sandbox_bundle(sandbox: &Sandbox, command: &str) -> crate::support::Bundle {
    let _ = fs::remove_dir_all(sandbox.path("bundles/minimal"));
    sandbox.bundle("minimal").args(&[command])
}

#[test]
fn what_is_not_executable_is_refused_by_name() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").with_file("etc/plain", "no program").args(&["/etc/plain"]);
    let output = sandbox.run(&bundle).fails();
    assert!(output.stderr.contains("/etc/plain"), "{output}");
    let output = sandbox.run(&bundle.args(&["/etc"])).fails();
    assert!(output.stderr.contains("/etc"), "{output}");
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn an_id_in_use_is_refused_and_its_container_left_alone() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("sleeping");
    sandbox.run_detached(&bundle, "run", &[]).ok();
    let output = sandbox.run(&bundle).fails();
    assert!(output.stderr.contains("exist"), "{output}");
    assert_eq!(sandbox.status("run").as_deref(), Some("running"));
}

#[test]
fn an_id_that_is_no_name_is_refused() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal");
    for id in ["", ".", "..", "../up", "a/b", "a b", "a\nb", "ü"] {
        sandbox.prepare(["run", "--bundle"]).arg(bundle.path()).arg(id).go().fails();
    }
    let made = fs::read_dir(sandbox.root()).map_or(0, Iterator::count);
    assert_eq!(made, 0, "nothing in --root");
}

#[test]
fn an_error_goes_to_the_log_as_json_when_asked() {
    needs!(root, busybox, oci_verbs);
    not_by!(Crun: "its log has more than one JSON shape");
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").args(&["/bin/not-there"]);
    let log = sandbox.path("log.json");
    let run = sandbox.prepare(["--log"]).arg(&log).args(["--log-format", "json", "run", "--bundle"]);
    let run = run.arg(bundle.path()).arg(sandbox.id("run"));
    run.go().fails();
    let lines = fs::read_to_string(log).unwrap();
    let last: Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "error", "{lines}");
    assert!(last["msg"].as_str().unwrap().contains("not-there"), "{lines}");
    assert!(last["time"].as_str().unwrap().contains('T'), "{lines}");
}

#[test]
fn no_pivot_runs_without_pivot_root() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.run_with(&sandbox.bundle("minimal"), &["--no-pivot"]).ok().text(), "hello");
}

#[test]
fn many_containers_run_beside_each_other() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("sleeping");
    let names: Vec<_> = (0..8).map(|n| format!("c{n}")).collect();
    for name in &names {
        sandbox.run_detached(&bundle, name, &[]).ok();
    }
    for name in &names {
        assert_eq!(sandbox.status(name).as_deref(), Some("running"));
        sandbox
            .prepare(["delete", "--force"])
            .arg(sandbox.id(name))
            .patience(Duration::from_secs(10))
            .go()
            .ok();
    }
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn properties_that_the_specification_does_not_know_are_ignored() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle =
        sandbox.bundle("minimal").with("/boat", json!({ "sails": 2 })).with("/linux/rudder", json!("oak"));
    assert_eq!(sandbox.run(&bundle.with("/process/oars", json!([1, 2]))).ok().text(), "hello");
}
