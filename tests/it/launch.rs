//! `launch`: from an image to a running container, as a user meets it.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::image_fixture::{Image, Layout, Pack};
use crate::support::{Output, Run, Runtime, Sandbox, fixture, wait_until};

/// A sandbox with an image `box`: busybox, a user `web`, and this configuration.
pub(crate) fn with_image(config: Value) -> Sandbox {
    let sandbox = Sandbox::new();
    import(&sandbox, config, |_| ());
    sandbox
}

/// Imports an image `box` whose root was changed.
pub(crate) fn import(sandbox: &Sandbox, config: Value, change: impl FnOnce(&Path)) {
    let layout = sandbox.path("layout");
    write_image(sandbox, &layout, config, change);
    let words = [OsStr::new("image"), "import".as_ref(), layout.as_ref(), "--name".as_ref(), "box".as_ref()];
    sandbox.coracle(words).ok();
}

/// As [`import`], under another name, where there is one already.
pub(crate) fn import_as(sandbox: &Sandbox, name: &str, config: Value, change: impl FnOnce(&Path)) {
    fs::rename(sandbox.path("bundles/minimal"), sandbox.path(&format!("bundles/before-{name}"))).unwrap();
    let layout = sandbox.path(&format!("layout-{name}"));
    write_image(sandbox, &layout, config, change);
    let words = [OsStr::new("image"), "import".as_ref(), layout.as_ref(), "--name".as_ref(), name.as_ref()];
    sandbox.coracle(words).ok();
}

fn write_image(sandbox: &Sandbox, layout: &Path, config: Value, change: impl FnOnce(&Path)) {
    let root = sandbox.bundle("minimal").root();
    fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\naudio:x:29:web\n").unwrap();
    fs::create_dir_all(root.join("var/lib/data")).unwrap();
    fs::write(root.join("var/lib/data/kept"), "from the image").unwrap();
    change(&root);
    let layer = sandbox.path("layer.tar");
    let tar = Run::new("tar").arg("-C").arg(&root).args(["--owner=0", "--group=0", "-cf"]);
    tar.arg(&layer).arg(".").go().ok();
    let layers = vec![fs::read(&layer).unwrap()];
    let mut image = Layout::of(Image { layers, pack: Pack::Gzip, platform: "", name: None });
    image.edit_config(|document| document["config"] = config);
    image.write(layout);
}

/// The image that most tests use.
pub(crate) fn plain() -> Sandbox {
    with_image(json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin", "FROM=image"] }))
}

/// A `launch` in this sandbox, not yet run; it stands under the name `name`.
pub(crate) fn prepare<S: AsRef<OsStr>>(
    sandbox: &Sandbox,
    name: &str,
    args: impl IntoIterator<Item = S>,
) -> Run {
    let id = sandbox.id(name);
    let mut all: Vec<std::ffi::OsString> = vec!["--store".into(), sandbox.path("store").into()];
    all.extend(["launch".into(), "--name".into(), id.into()]);
    all.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
    sandbox.prepare(all)
}

/// `launch --rm FLAGS box sh -c SCRIPT`
pub(crate) fn shell(sandbox: &Sandbox, flags: &[&str], script: &str) -> Output {
    prepare(sandbox, "box", ["--rm"].iter().chain(flags).chain(&["box", "/bin/sh", "-c", script])).go()
}

fn container_dir(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.path("store/containers").join(sandbox.id(name))
}

/// Nothing of any container is left, on the host or in the store.
#[track_caller]
fn assert_clean(sandbox: &Sandbox) {
    wait_until("the container's traces to go", || sandbox.traces().is_empty().then_some(()));
    let kept: Vec<_> = fs::read_dir(sandbox.path("store/containers")).unwrap().flatten().collect();
    assert!(kept.is_empty(), "{kept:?}");
}

#[test]
fn an_image_is_launched_from_a_directory_and_from_an_archive() {
    needs!(root, launch_verb);
    let sandbox = Sandbox::new();
    let images = fixture("images");
    let launch = |path: &str| {
        let store = sandbox.path("store");
        let run =
            sandbox.prepare([OsStr::new("--store"), store.as_ref(), "launch".as_ref(), "--rm".as_ref()]);
        run.arg(path).cwd(&images).go().ok()
    };
    let first = launch("hello");
    assert!(first.stdout.starts_with("Hello from a container!\n"), "{first}");
    let layers = || {
        fs::read_dir(sandbox.path("store/layers")).unwrap().flatten().map(|e| e.path()).collect::<Vec<_>>()
    };
    let (before, journal) = (layers(), fs::read(sandbox.path("store/journal")).ok());
    assert!(launch("./hello").stdout.starts_with("Hello from a container!\n"));
    let archive = sandbox.path("hello.tar");
    Run::new("tar").arg("-C").arg(images.join("hello")).arg("-cf").arg(&archive).arg(".").go().ok();
    assert!(launch(archive.to_str().unwrap()).stdout.starts_with("Hello from a container!\n"));
    // What is there already is not taken in again.
    assert_eq!((layers(), fs::read(sandbox.path("store/journal")).ok()), (before, journal));
}

#[test]
fn the_images_configuration_shapes_the_container() {
    needs!(root, busybox, launch_verb);
    let script = "echo \"$0 $*\"; id -u; id -g; pwd; echo $FROM; echo $HOME; stat -c %n /made";
    let sandbox = with_image(json!({
        "Entrypoint": ["/bin/sh", "-c", script], "Cmd": ["from", "cmd"],
        "Env": ["PATH=/bin", "FROM=image"], "User": "web", "WorkingDir": "/some/where", "StopSignal": "SIGQUIT",
        "Volumes": { "/made": {} }, "Labels": { "run.oci.handler": "krun", "org.systemd.property.X": "1" },
    }));
    let output = prepare(&sandbox, "box", ["--rm", "box"]).go().ok();
    assert_eq!(output.stdout, "from cmd\n1000\n1000\n/some/where\nimage\n/\n/made\n", "{output}");
    let output = prepare(&sandbox, "box", ["--rm", "box", "other"]).go().ok();
    assert!(output.stdout.starts_with("other \n"), "{output}");
    let output = prepare(&sandbox, "box", ["--rm", "--entrypoint", "/bin/echo", "box", "a", "b"]).go().ok();
    assert_eq!(output.stdout, "a b\n");
    assert_clean(&sandbox);
}

/// An image is not trusted with what only its user may say (CVE-2026-53488).
#[test]
fn labels_of_the_image_do_not_become_annotations() {
    needs!(root, busybox, launch_verb);
    let sandbox = with_image(
        json!({ "Cmd": ["/bin/sleep", "1000"], "Env": ["PATH=/bin"], "Labels": { "evil": "yes" } }),
    );
    let mut child = background(&sandbox, "box", &["--rm", "--annotation", "good=yes", "box"]);
    sandbox.wait_for_status("box", "running");
    let state = sandbox.state("box");
    assert_eq!(state["annotations"], json!({ "good": "yes" }));
    sandbox.runtime(["kill", &sandbox.id("box"), "KILL"]).ok();
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_clean(&sandbox);
}

#[test]
fn exit_codes_pass_through_and_failures_have_their_own() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    shell(&sandbox, &[], "exit 42").exits(42);
    shell(&sandbox, &[], "kill -KILL $$; sleep 1").exits(0);
    let launch = |args: &[&str]| prepare(&sandbox, "box", ["--rm", "box"].iter().chain(args)).go();
    let output = launch(&["/bin/no-such"]).exits(127);
    assert!(output.stderr.contains("executable file not found"), "{output}");
    launch(&["no-such-in-path"]).exits(127);
    launch(&["/etc/passwd"]).exits(126);
    launch(&["/etc"]).exits(126);
    assert_clean(&sandbox);
    let output = sandbox.coracle(["launch", "--pull", "never", "nothing-of-this-name"]).exits(125);
    assert!(output.stderr.contains("hint: pull it first: coracle image pull"), "{output}");
    sandbox.coracle(["launch", "./no/such/path"]).exits(125);
    sandbox.coracle(["launch"]).exits(125);
    assert_clean(&sandbox);
}

#[test]
fn malformed_flags_are_refused_one_clear_error_each() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let flags = [
        "--memory=lots",
        "--memory=-5",
        "--memory-swap=x",
        "--memory-swap=64m",
        "--memory=-1",
        "--cpus=none",
        "--cpus=0",
        "--pids-limit=many",
        "--env==x",
        "--env-file=/no/such",
        "--volume=/only",
        "--volume=name:/x",
        "--volume=/a:/b:fast",
        "--volume=/a:/b:ro,rw",
        "--mount=type=bind,target=/x",
        "--mount=type=bind,source=/no/such,target=/x",
        "--mount=what",
        "--mount=type=bind,source=,target=/x",
        "--mount=type=bind,source=/tmp,target=/x,bind-propagation=rw",
        "--tmpfs=/x:remount",
        "--tmpfs=relative",
        "--workdir=relative",
        "--user=nobody-of-this-name",
        "--user=0:no-such-group",
        "--group-add=no-such-group",
        "--cap-add=FLYING",
        "--cap-drop=FLYING",
        "--security-opt=what",
        "--security-opt=seccomp=/no/such",
        "--device=/etc/passwd",
        "--device=/dev/no-such",
        "--net=bridge",
        "--ulimit=nofile",
        "--ulimit=nofile=9:1",
        "--ulimit=wings=1",
        "--sysctl=nothing",
        "--annotation=x",
        "--shm-size=x",
        "--platform=not/a/real/one/at/all",
        "--no-such-flag",
        "--oom-score-adj=x",
        "--sysctl=vm.swappiness=1",
    ];
    for flag in flags {
        let output = prepare(&sandbox, "box", ["--rm", flag, "box", "/bin/true"]).go();
        assert_eq!(output.code(), Some(125), "{flag}: {output}");
        let errors = output.stderr.lines().filter(|l| l.starts_with("error: ")).count();
        assert_eq!((errors, output.stdout.as_str()), (1, ""), "{flag}: {output}");
    }
    let bad_name = sandbox.coracle(["launch", "--name", "a/b", "box", "/bin/true"]).exits(125);
    assert!(bad_name.stderr.contains("a/b"), "{bad_name}");
    assert_clean(&sandbox);
}

#[test]
fn a_refused_launch_does_not_make_the_source_of_a_volume() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let volume = format!("{}:/x", sandbox.path("new").display());
    for refused in
        [&["--memory=1m", "--memory-reservation=2m"][..], &["--user=no-such"], &["--group-add=no-such"]]
    {
        let words = [&["--rm", "-v", &volume], refused, &["box", "/bin/true"]].concat();
        prepare(&sandbox, "box", words).go().exits(125);
        assert!(!sandbox.path("new").exists(), "{refused:?} leaves the source of a volume");
    }
    assert_clean(&sandbox);
}

#[test]
fn an_archive_that_ends_in_the_middle_leaves_nothing() {
    needs!(root, busybox, launch_verb);
    let sandbox = Sandbox::new();
    write_image(&sandbox, &sandbox.path("layout"), json!({ "Cmd": ["/bin/true"] }), |_| ());
    let archive = sandbox.path("image.tar");
    Run::new("tar").arg("-C").arg(sandbox.path("layout")).arg("-cf").arg(&archive).arg(".").go().ok();
    let whole = fs::read(&archive).unwrap();
    fs::write(&archive, &whole[..whole.len() / 2]).unwrap();
    let launch = || prepare(&sandbox, "box", [OsStr::new("--rm"), archive.as_ref()]).go();
    let output = launch().exits(125);
    assert!(output.stderr.starts_with("error: "), "{output}");
    for place in ["layers", "tmp", "containers"] {
        let left: Vec<_> =
            fs::read_dir(sandbox.path("store").join(place)).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "{place}: {left:?}");
    }
    fs::write(&archive, &whole).unwrap();
    launch().ok();
}

/// A launch that goes on by itself; its output goes to `<name>.out`.
pub(crate) fn background(sandbox: &Sandbox, name: &str, args: &[&str]) -> std::process::Child {
    let log = fs::File::create(sandbox.path(&format!("{name}.out"))).unwrap();
    let mut command = std::process::Command::new(Runtime::Ours.program());
    command.arg("--root").arg(sandbox.root()).arg("--store").arg(sandbox.path("store"));
    command.args(["launch", "--name", &sandbox.id(name)]).args(args);
    command.stdin(std::process::Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

fn signal(child: &std::process::Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

#[test]
fn signals_are_passed_on() {
    needs!(root, busybox, launch_verb);
    use rustix::process::Signal;
    let sandbox = plain();
    let script = "trap 'echo term; exit 3' TERM; trap 'echo int; exit 4' INT; echo ready; while :; do sleep 0.02; done";
    for (sent, code) in [(Signal::TERM, 3), (Signal::INT, 4)] {
        let mut child = background(&sandbox, "box", &["--rm", "box", "/bin/sh", "-c", script]);
        sandbox.wait_for_output("box", "ready");
        signal(&child, sent);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{}", sandbox.output_of("box"));
    }
    assert_clean(&sandbox);
}

#[test]
fn a_killed_payload_leaves_nothing() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let mut child = background(&sandbox, "box", &["--rm", "box", "/bin/sleep", "1000"]);
    sandbox.wait_for_status("box", "running");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(&sandbox.id("box")), "the host sees a mount of the container");
    sandbox.runtime(["kill", &sandbox.id("box"), "KILL"]).ok();
    assert_eq!(child.wait().unwrap().code(), Some(137));
    assert_clean(&sandbox);
}

#[test]
fn what_a_killed_launch_leaves_running_stays_whole_until_it_is_removed() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let script = "echo one >/file; echo ready; while :; do sleep 0.02; done";
    let mut child = background(&sandbox, "box", &["--rm", "box", "/bin/sh", "-c", script]);
    sandbox.wait_for_output("box", "ready");
    signal(&child, rustix::process::Signal::KILL);
    child.wait().unwrap();
    // The payload runs on; another launch must not pull its root from under it.
    prepare(&sandbox, "other", ["--rm", "box", "/bin/true"]).go().ok();
    assert_eq!(sandbox.status("box").as_deref(), Some("running"));
    sandbox.runtime(["exec", &sandbox.id("box"), "/bin/sh", "-c", "cat /file && echo two >/file"]).ok();
    sandbox.coracle(["rm", &sandbox.id("box")]).fails();
    sandbox.coracle(["rm", "--force", &sandbox.id("box")]).ok();
    assert_clean(&sandbox);
}

#[test]
fn the_next_launch_clears_up_after_a_killed_one() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    let script = "echo ready; exec sleep 1000";
    let mut child = background(&sandbox, "box", &["--rm", "box", "/bin/sh", "-c", script]);
    // A container whose launch is killed before the payload is executed ends with it.
    sandbox.wait_for_output("box", "ready");
    signal(&child, rustix::process::Signal::KILL);
    child.wait().unwrap();
    sandbox.runtime(["kill", &sandbox.id("box"), "KILL"]).ok();
    sandbox.wait_for_status("box", "stopped");
    prepare(&sandbox, "other", ["--rm", "box", "/bin/true"]).go().ok();
    assert_clean(&sandbox);
}

#[test]
fn what_a_launch_left_that_was_killed_before_its_record_goes_with_the_next_or_with_rm() {
    needs!(root, busybox, launch_verb, strace);
    let sandbox = plain();
    let store = sandbox.path("store");
    // Killed when it makes the container's process: the cgroup is there, the record is not.
    let script = "exec strace -qq -o /dev/null -e trace=clone3 -e inject=clone3:signal=KILL \"$@\"";
    let killed = |name: &str, options: &[&str]| {
        let id = sandbox.id(name);
        let words =
            [&["--store", store.to_str().unwrap(), "launch", "--name", &id], options, &["box", "true"]];
        sandbox.prepare_script(script, words.concat()).go().fails();
        assert!(!sandbox.root().join(id).join("state.json").exists());
        assert!(format!("{:?}", sandbox.traces()).contains("Cgroup("), "{:?}", sandbox.traces());
    };
    killed("gone", &["--rm"]);
    prepare(&sandbox, "other", ["--rm", "box", "/bin/true"]).go().ok();
    assert_clean(&sandbox);
    killed("kept", &[]);
    let used = sandbox.coracle(["image", "rm", "box"]).fails();
    assert!(used.stderr.contains(&format!("coracle rm {}", sandbox.id("kept"))), "{used}");
    sandbox.coracle(["rm", &sandbox.id("kept")]).ok();
    assert_clean(&sandbox);
}

#[test]
fn without_rm_the_container_is_kept_until_it_is_removed() {
    needs!(root, busybox, launch_verb);
    let sandbox = plain();
    prepare(&sandbox, "kept", ["box", "/bin/sh", "-c", "echo mine >/file"]).go().ok();
    let upper = container_dir(&sandbox, "kept").join("upper/file");
    assert_eq!(fs::read_to_string(upper).unwrap(), "mine\n");
    let again = prepare(&sandbox, "kept", ["box", "/bin/true"]).go().exits(125);
    assert!(again.stderr.contains(&format!("coracle rm {}", sandbox.id("kept"))), "{again}");
    sandbox.coracle(["rm", &sandbox.id("kept")]).ok();
    sandbox.coracle(["rm", &sandbox.id("kept")]).fails();
    assert_clean(&sandbox);
}

/// An image cannot hide what the runtime mounts, and its volumes do not keep it from starting.
#[test]
fn volumes_of_an_image_at_paths_of_the_kernel_are_left_out() {
    needs!(root, launch_verb);
    let volumes = json!({
        "/proc": {}, "/sys": {}, "/dev": {}, "/": {}, "": {}, "proc": {}, "..": {}, "/proc/self": {}, "/dev/shm": {},
        "/dev/pts": {}, "/sys/fs/cgroup": {}, "/etc/group": {}, "/var/lib/data": {}, "/var/lib/data/": {},
        "/var/lib/data/new": {}, "/fresh": {}, "/to-proc": {}, "/to-proc/new": {}, "/to-nowhere": {},
    });
    let sandbox = Sandbox::new();
    import(&sandbox, json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Volumes": volumes }), |root| {
        std::os::unix::fs::symlink("/proc", root.join("to-proc")).unwrap();
        std::os::unix::fs::symlink("/proc/none", root.join("to-nowhere")).unwrap();
    });
    let script = "set -e; grep -q ' /proc proc ' /proc/mounts; test -d /sys/kernel; test -c /dev/null; test -d /dev/shm; \
                  test -f /etc/group; cat /var/lib/data/kept; echo; echo w > /var/lib/data/w; echo w > /var/lib/data/new/w; \
                  echo w > /fresh/w; test -d /to-proc/self; ! grep -q ' /to' /proc/mounts";
    for flags in [&["--read-only"][..], &[]] {
        let output = shell(&sandbox, flags, script);
        assert_eq!(output.code(), Some(0), "{flags:?}: {output}");
        assert_eq!(output.stdout, "from the image\n");
        assert!(output.stderr.contains("volume /proc is left out"), "{output}");
    }
    assert_clean(&sandbox);
}
