//! What a payload inherits from those who started it: nothing but its standard streams, and what its configuration says.

use coracle_cri::v1::ContainerConfig;

use super::Spy;
use super::report::{Report, Role};
use crate::support::{Run, Sandbox, Serve, container, pod_on_host};

/// A caller that forgot to close its descriptors: files, directories, sockets.
const LEAKY: &str = "exec 5<>/dev/full 7</ 8</etc 9</etc/passwd; exec \"$@\"";

#[track_caller]
fn nothing(spy: &Spy, what: &str) {
    let report: Report = spy.end();
    assert!(report.hits.is_empty(), "{what}: {report:#?}");
    std::fs::remove_file(spy.dir().join("report")).unwrap();
}

#[test]
fn oci_containers_inherit_nothing() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let log = sandbox.path("log");
    let (web, run) = (sandbox.id("web"), sandbox.id("run"));
    for fixture in ["minimal", "user-namespace", "user"] {
        let spy = Spy::new(&sandbox, &format!("spy-{fixture}"), Role::Inherit);
        let bundle = spy.inside(sandbox.bundle(fixture));
        let path = bundle.path().display().to_string();
        let call = |words: &[&str]| {
            let words = words.iter().copied();
            let output = sandbox.prepare_script(LEAKY, words).output_into(&log).go();
            let text = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(output.code() == Some(0), "{output}: {}", text());
        };
        call(&["run", "--bundle", &path, &run]);
        nothing(&spy, "run");
        call(&["run", "--detach", "--bundle", &path, &web]);
        nothing(&spy, "run --detach");
        call(&["delete", "--force", &web]);
        call(&["create", "--bundle", &path, &web]);
        call(&["start", &web]);
        nothing(&spy, "start");
        call(&["delete", "--force", &web]);
        let _sleeping = bundle.args(&["/bin/sleep", "1000"]);
        call(&["run", "--detach", "--bundle", &path, &web]);
        let command = Spy::command();
        for flags in [&[][..], &["--detach"], &["--user", "1000:1000"]] {
            let words = [&["exec"], flags, &[web.as_str()]].concat();
            call(&words.into_iter().chain(command.iter().map(String::as_str)).collect::<Vec<_>>());
            nothing(&spy, &format!("exec {flags:?}"));
        }
        call(&["delete", "--force", &web]);
    }
}

#[test]
fn launched_containers_inherit_nothing() {
    needs!(root, busybox, launch_verb);
    for detach in [false, true] {
        let kept = crate::keeper::Kept::new();
        let sandbox = &kept.sandbox;
        let spy = Spy::new(sandbox, "spy", Role::Inherit);
        let [program, out] = spy.mounts().map(|(source, at, _)| format!("{}:{at}", source.display()));
        let (store, variable) = (sandbox.path("store").display().to_string(), spy.variable());
        let (id, command) = (sandbox.id("web"), Spy::command());
        let mut words = vec!["--store", &store, "launch", "--name", &id, "--env", &variable];
        words.extend(["--volume", &program, "--volume", &out]);
        words.extend(detach.then_some("--detach"));
        words.push("box");
        words.extend(command.iter().map(String::as_str));
        sandbox.prepare_script(LEAKY, words).output_into(&sandbox.path("log")).go().ok();
        nothing(&spy, if detach { "launch --detach" } else { "launch" });
        sandbox.coracle(["rm", "--force", &id]).ok();
    }
}

#[test]
fn pods_inherit_nothing() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::stopped("");
    let mut leaky = std::process::Command::new("bash");
    leaky.args(["-c", LEAKY, "bash"]);
    serve.start_as(serve.command_by(leaky));
    let spy = Spy::new(serve.sandbox(), "spy", Role::Inherit);
    let pod = serve.logged(pod_on_host("inherits"));
    let id = serve.run_pod(&pod);
    for (name, stdin, tty) in [("plain", false, false), ("stdin", true, false), ("terminal", true, true)] {
        let wished = spy.in_pod(container(&pod, name, ""));
        serve.run_container(&id, &pod, &ContainerConfig { stdin, tty, ..wished });
        nothing(&spy, name);
    }
    let wished = spy.in_pod(container(&pod, "execs", ""));
    let command = ["/bin/sh", "-c", "sleep 1000"].map(str::to_owned).into();
    let execs = serve.run_container(&id, &pod, &ContainerConfig { command, ..wished });
    serve.try_exec(&execs, &Spy::command().join(" "), None).unwrap();
    nothing(&spy, "ExecSync");
    serve.removes_all();
}

/// A caller with a secret in its session keyring, which whoever has the keyring may read.
const WITH_KEY: &str = r#"
    use strict;
    my %calls = ("x86_64" => [248, 250], "aarch64" => [217, 219], "armv7l" => [309, 311]);
    my $machine = `uname -m`; chomp $machine;
    my ($add, $control) = @{$calls{$machine}};
    my ($keyring, $type, $name, $secret) = ("of-the-caller", "user", "secret-of-the-caller", "s3cret");
    syscall($control, 1, $keyring) >= 0 or die "join: $!";
    syscall($add, $type, $name, $secret, length $secret, -3) >= 0 or die "add: $!";
    exec @ARGV or die "exec: $!";
"#;

#[test]
fn the_callers_keyring_stays_outside() {
    needs!(root, busybox, oci_verbs, perl);
    let sandbox = Sandbox::new();
    // What is masked cannot be looked at; the same keys are there.
    let bundle = sandbox.bundle("minimal").with("/linux/maskedPaths", serde_json::json!([]));
    let with_key = |words: &[&str]| {
        let run = Run::new("perl").args(["-e", WITH_KEY]).arg(sandbox.runtime_kind().program());
        let run = run.arg("--root").arg(sandbox.root()).args(words);
        run.env("CORACLE_SANDBOX", sandbox.mark()).env("CORACLE_RUN", sandbox.path("run"))
    };
    let user = serde_json::json!({ "uid": 1000, "gid": 1000 });
    let look = bundle.with("/process/user", user).args(&["/bin/cat", "/proc/keys"]);
    let path = look.path().display().to_string();
    let output = with_key(&["run", "--bundle", &path, &sandbox.id("run")]).go().ok();
    assert!(!output.stdout.contains("of-the-caller"), "run: {output}");
    let look = look.args(&["/bin/sleep", "1000"]);
    sandbox.run_detached(&look, "web", &[]).ok();
    // Root sees root's keys, though it may not use them; whoever else sees one has the keyring.
    let output = with_key(&["exec", "--user", "1000:1000", &sandbox.id("web"), "/bin/cat", "/proc/keys"]);
    let output = output.go().ok();
    assert!(!output.stdout.contains("of-the-caller"), "exec: {output}");
}
