//! Verbs that want a thread, a descriptor or memory that the kernel does not give: a clear error, no panic, and nothing
//! left behind.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::image_fixture::{Layout, Member, image, tar};
use crate::launch::with_image;
use crate::support::{Output, Run, Runtime, Sandbox, Serve};

/// A pids cgroup (v1) of the test's own, removed when dropped.
struct PidsLimit(PathBuf);

impl PidsLimit {
    fn new(name: &str, most: u32) -> Self {
        let path = Path::new("/sys/fs/cgroup/pids").join(format!("coracle-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("pids.max"), most.to_string()).unwrap();
        Self(path)
    }

    /// A command that runs `program` inside.
    fn run(&self, program: impl AsRef<OsStr>) -> Run {
        let script = r#"echo $$ > "$0/cgroup.procs" && exec "$@""#;
        Run::new("sh").args(["-c", script]).arg(&self.0).arg(program)
    }
}

impl Drop for PidsLimit {
    fn drop(&mut self) {
        for _ in 0..200 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

/// A panic or an abort of ours is 134, or a signal, or says so.
#[track_caller]
fn assert_no_panic(output: &Output) {
    let said = format!("{}{}", output.stdout, output.stderr);
    assert!(!said.contains("panicked at") && !said.contains("RUST_BACKTRACE"), "{output}");
    assert!(output.code().is_some_and(|code| code != 134 && code != 101), "{output}");
}

/// It either does its work, or fails with an error of ours.
#[track_caller]
fn assert_clear(output: &Output) {
    assert_no_panic(output);
    if output.code() != Some(0) {
        assert!(output.stderr.contains("error: "), "no error is told: {output}");
    }
}

fn stores_nothing(store: &Path) -> bool {
    let is_empty =
        |name: &str| fs::read_dir(store.join(name)).map_or(true, |mut entries| entries.next().is_none());
    is_empty("layers") && is_empty("staging") && is_empty("trash")
}

#[test]
fn an_import_that_gets_no_thread_or_process_fails_and_leaves_nothing() {
    needs!(root, cgroup1);
    let dir = tempfile::tempdir().unwrap();
    let (store, layout) = (dir.path().join("store"), dir.path().join("demo"));
    let mut many = image("demo:1");
    many.layers = ["a", "b", "c", "d", "e", "f"].map(|name| tar(&[Member::File(name, b"x")])).into();
    Layout::of(many).write(&layout);
    let mut has_worked = false;
    for most in 1..=8 {
        let limit = PidsLimit::new("import", most);
        let line =
            ["--store".as_ref(), store.as_os_str(), "image".as_ref(), "import".as_ref(), layout.as_ref()];
        let output = limit.run(Runtime::Ours.program()).args(line).go();
        assert_clear(&output);
        if output.code() == Some(0) {
            has_worked = true;
            break;
        }
        assert!(stores_nothing(&store), "pids.max {most}: {output}");
    }
    assert!(has_worked, "eight processes are enough");
}

/// What is looked up by name: on a thread, which is not to be had.
#[test]
fn a_pull_that_gets_no_thread_to_look_up_a_name_fails() {
    needs!(root, cgroup1);
    let dir = tempfile::tempdir().unwrap();
    for most in 1..=4 {
        let limit = PidsLimit::new("pull", most);
        let pull = limit.run(Runtime::Ours.program()).arg("--store").arg(dir.path().join("store"));
        let output = pull.args(["image", "pull", "no-such-registry.invalid/demo:1"]).go();
        assert_clear(&output);
        assert_ne!(output.code(), Some(0));
    }
}

/// A daemon that may not start a thread for a call answers it with an error, and the next one when it may again.
#[test]
fn a_daemon_that_gets_no_thread_survives_it() {
    needs!(root, busybox, cgroup1);
    use coracle_cri::v1::{StatusRequest, VersionRequest};
    let serve = Serve::new();
    let pid = serve.pid();
    // Its threads for calls end by themselves after a while.
    crate::support::wait_until("the threads to end", || {
        (fs::read_dir(format!("/proc/{pid}/task")).unwrap().count() <= 2).then_some(())
    });
    let limit = PidsLimit::new("serve", 1);
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let own =
        own.lines().find_map(|line| line.split_once(":pids:")).map(|(_, path)| path.to_owned()).unwrap();
    fs::write(limit.0.join("cgroup.procs"), pid.to_string()).unwrap();
    for _ in 0..3 {
        let error = serve.run(serve.runtime().status(StatusRequest::default())).unwrap_err();
        assert!(error.message().contains("start a thread"), "{error}");
    }
    let back = Path::new("/sys/fs/cgroup/pids").join(own.trim_start_matches('/')).join("cgroup.procs");
    fs::write(back, pid.to_string()).unwrap();
    serve.run(serve.runtime().status(StatusRequest::default())).unwrap();
    serve.run(serve.runtime().version(VersionRequest::default())).unwrap();
    assert_eq!(serve.pid(), pid);
}

/// The verbs of an image and of a container, with `words` of prlimit before each. Each is to work or to say why not, and
/// after a failure the sandbox is clean.
fn each_verb(sandbox: &Sandbox, limit: &str) {
    let (program, store) = (Runtime::Ours.program(), sandbox.path("store"));
    let (root, run) = (sandbox.root(), sandbox.path("run"));
    let base: Vec<OsString> = [
        OsStr::new("--store"),
        store.as_ref(),
        "--root".as_ref(),
        root.as_ref(),
        "--run".as_ref(),
        run.as_ref(),
    ]
    .map(OsString::from)
    .to_vec();
    let verb = |words: &[&OsStr]| {
        let run = Run::new("prlimit").arg(limit).arg(&program).args(&base).args(words);
        let output = run.env("CORACLE_SANDBOX", sandbox.mark()).go();
        assert_clear(&output);
        output
    };
    let words = |line: &'static str| line.split(' ').map(OsStr::new).collect::<Vec<_>>();
    for line in [
        "image ls",
        "image df",
        "image inspect box",
        "image verify box",
        "image gc",
        "image prune",
        "ps",
        "list",
        "state nothing",
        "features",
        "spec --help",
    ] {
        verb(&words(line));
    }
    let archive = sandbox.path("out.tar");
    verb(&["image".as_ref(), "export".as_ref(), "box".as_ref(), archive.as_ref()]);
    let layout = sandbox.path("layout");
    verb(&["image".as_ref(), "import".as_ref(), layout.as_ref(), "--name".as_ref(), "again".as_ref()]);
    let id = sandbox.id("scarce");
    let mut launch = words("launch --rm --name");
    launch.extend([id.as_str(), "box", "/bin/true"].map(OsStr::new));
    verb(&launch);
    assert!(sandbox.traces().is_empty(), "{limit}: {:?}", sandbox.traces());
    let left: Vec<_> = fs::read_dir(store.join("containers")).unwrap().flatten().collect();
    assert!(left.is_empty(), "{limit}: {left:?}");
}

#[test]
fn no_verb_panics_for_want_of_descriptors() {
    needs!(root, busybox, launch_verb);
    let sandbox = with_image(json!({ "Cmd": ["/bin/sh"], "Env": ["PATH=/bin"] }));
    for most in (3..=24).chain([32, 64]) {
        each_verb(&sandbox, &format!("--nofile={most}:{most}"));
    }
}

/// With these the daemon cannot even begin, and says why.
#[test]
fn a_daemon_without_descriptors_refuses_to_start() {
    needs!(root, busybox);
    let serve = Serve::stopped("");
    for most in 3..=16 {
        let own = serve.command();
        let run =
            Run::new("timeout").args(["-s", "TERM", "3", "prlimit"]).arg(format!("--nofile={most}:{most}"));
        let run =
            run.arg(own.get_program()).args(own.get_args()).env("CORACLE_SANDBOX", serve.sandbox().mark());
        let output = run.go();
        assert_no_panic(&output);
    }
}
