//! A container that changes owner, mode and times of all that it can reach changes nothing of the host's devices.
//!
//! The host's devices are not put at risk: everything runs in a mount namespace where /dev has nodes of the test's own,
//! so that they stay as they are even if the test is killed. [`HostDevices`] makes sure of it.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_cri::v1::ContainerConfig;
use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, makedev, mknodat, utimensat};
use serde_json::json;

use super::Spy;
use super::report::Role;
use crate::support::{Run, Sandbox, Serve, container, pod_on_host, wait_until};

const NODES: [(&str, u32); 6] =
    [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9), ("tty", 0)];

/// The host's devices, which every program of the machine needs as they are: looked at before a test, and made so again
/// after it, whatever came of it.
struct HostDevices;

impl HostDevices {
    fn changed() -> Vec<String> {
        let mode = |name: &str| fs::metadata(Path::new("/dev").join(name)).map(|stat| stat.mode() & 0o7777);
        let is_changed = |name: &&str| mode(name).is_ok_and(|mode| mode != 0o666);
        let names = NODES.iter().map(|(name, _)| *name).filter(is_changed);
        names.map(|name| format!("/dev/{name} has mode {:o}", mode(name).unwrap_or_default())).collect()
    }

    fn look() -> Self {
        let changed = Self::changed();
        assert!(changed.is_empty(), "something has changed the host's devices before: {changed:?}");
        Self
    }
}

impl Drop for HostDevices {
    fn drop(&mut self) {
        let changed = Self::changed();
        for (name, _) in NODES {
            let _ = rustix::fs::chmod(Path::new("/dev").join(name), Mode::from_raw_mode(0o666));
        }
        assert!(
            changed.is_empty() || std::thread::panicking(),
            "the host's own devices were changed: {changed:?}"
        );
    }
}

/// Device nodes of a test's own, and commands that take them for the host's.
struct Nodes(PathBuf, HostDevices);

/// How a node looks: mode, owner, group and time of its last change in content.
type Look = (&'static str, u32, u32, u32, i64);

impl Nodes {
    fn new(sandbox: &Sandbox) -> Self {
        let (dir, of_the_host) = (sandbox.path("nodes"), HostDevices::look());
        fs::create_dir(&dir).unwrap();
        for (name, minor) in NODES {
            let device = if name == "tty" { makedev(5, 0) } else { makedev(1, minor) };
            let (kind, mode) = (FileType::CharacterDevice, Mode::from_raw_mode(0o666));
            mknodat(CWD, dir.join(name), kind, mode, device).unwrap();
            rustix::fs::chmod(dir.join(name), mode).unwrap();
            assert!(fs::metadata(dir.join(name)).unwrap().file_type().is_char_device());
        }
        Self(dir, of_the_host)
    }

    fn look(&self) -> Vec<Look> {
        let look = |name: &'static str| {
            let stat = fs::metadata(self.0.join(name)).unwrap();
            (name, stat.mode(), stat.uid(), stat.gid(), stat.mtime())
        };
        NODES.iter().map(|(name, _)| look(name)).collect()
    }

    /// Makes them look as they did, for the next attempt.
    fn restore(&self, looks: &[Look]) {
        for (name, mode, uid, gid, mtime) in looks {
            let path = self.0.join(name);
            rustix::fs::chmod(&path, Mode::from_raw_mode(mode & 0o7777)).unwrap();
            std::os::unix::fs::chown(&path, Some(*uid), Some(*gid)).unwrap();
            let time = Timespec { tv_sec: *mtime, tv_nsec: 0 };
            let times = Timestamps { last_access: time, last_modification: time };
            utimensat(CWD, &path, &times, AtFlags::empty()).unwrap();
        }
    }

    /// What `unshare` is to run: the command that follows, with these nodes in /dev and its input from /dev/null.
    fn script(&self) -> String {
        let dir = self.0.display();
        let binds = NODES.map(|(name, _)| format!("mount --bind {dir}/{name} /dev/{name}"));
        format!("{} && exec \"$@\" </dev/null", binds.join(" && "))
    }

    fn wrap(&self) -> [String; 7] {
        let script = self.script();
        ["--mount", "--propagation", "private", "sh", "-c", &script, "sh"].map(str::to_owned)
    }

    fn prepare(&self, sandbox: &Sandbox, words: &[&str]) -> Run {
        let run = Run::new("unshare").args(self.wrap()).arg(sandbox.runtime_kind().program());
        let run = run.arg("--root").arg(sandbox.root()).args(words);
        run.env("CORACLE_SANDBOX", sandbox.mark()).env("CORACLE_RUN", sandbox.path("run"))
    }
}

/// Waits for the attack's end; what it changed of the host's, if anything.
fn changes(nodes: &Nodes, before: &[Look], what: &str, spy: &Spy) -> Option<String> {
    let report = spy.end();
    assert!(!report.hits.is_empty(), "{what}: it changed nothing at all, not even its own: {report:?}");
    fs::remove_file(spy.dir().join("report")).unwrap();
    let after = nodes.look();
    nodes.restore(before);
    let changed: Vec<_> = after.into_iter().filter(|look| !before.contains(look)).collect();
    (!changed.is_empty()).then(|| format!("{what}: {changed:?}"))
}

#[test]
fn oci_containers_change_no_device_of_the_host() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let nodes = Nodes::new(&sandbox);
    let before = nodes.look();
    let spy = Spy::new(&sandbox, "spy", Role::Mangle);
    let bundle = spy.inside(sandbox.bundle("writable-root"));
    let mut failed = Vec::new();
    let mut look = |what: &str| failed.extend(changes(&nodes, &before, what, &spy));
    let path = bundle.path().display().to_string();
    let log = sandbox.path("log");
    nodes.prepare(&sandbox, &["run", "--bundle", &path, &sandbox.id("run")]).output_into(&log).go().ok();
    look("run");
    let web = sandbox.id("web");
    let words = ["run", "--detach", "--bundle", &path, &web];
    nodes.prepare(&sandbox, &words).output_into(&log).go().ok();
    look("run --detach");
    sandbox.runtime(["delete", "--force", &web]).ok();
    nodes.prepare(&sandbox, &["create", "--bundle", &path, &web]).output_into(&log).go().ok();
    nodes.prepare(&sandbox, &["start", &web]).output_into(&log).go().ok();
    look("create and start");
    sandbox.runtime(["delete", "--force", &web]).ok();
    let sleeping = spy.beside(sandbox.bundle("sleeping"));
    let path = sleeping.path().display().to_string();
    nodes.prepare(&sandbox, &["run", "--detach", "--bundle", &path, &web]).output_into(&log).go().ok();
    for flags in [&[][..], &["--detach"]] {
        let command = Spy::command();
        let command = command.iter().map(String::as_str);
        let words: Vec<_> =
            ["exec"].into_iter().chain(flags.iter().copied()).chain([web.as_str()]).chain(command).collect();
        nodes.prepare(&sandbox, &words).output_into(&log).go().ok();
        look(&format!("exec {flags:?}"));
    }
    assert!(failed.is_empty(), "the host's devices were changed: {failed:#?}");
}

#[test]
fn launched_containers_change_no_device_of_the_host() {
    needs!(root, busybox, launch_verb);
    for detach in [false, true] {
        let kept = crate::keeper::Kept::new();
        let sandbox = &kept.sandbox;
        let nodes = Nodes::new(sandbox);
        let before = nodes.look();
        let spy = Spy::new(sandbox, "spy", Role::Mangle);
        let [program, out] = spy.mounts().map(|(source, at, _)| format!("{}:{at}", source.display()));
        let (store, variable, id) =
            (sandbox.path("store").display().to_string(), spy.variable(), sandbox.id("web"));
        let mut words = vec!["--store", &store, "launch", "--name", &id, "--env", &variable];
        words.extend(["--volume", &program, "--volume", &out, "--cap-add", "FOWNER"]);
        words.extend(detach.then_some("--detach"));
        words.push("box");
        let command = Spy::command();
        words.extend(command.iter().map(String::as_str));
        nodes.prepare(sandbox, &words).output_into(&sandbox.path("log")).go().ok();
        let changed = changes(&nodes, &before, if detach { "launch --detach" } else { "launch" }, &spy);
        sandbox.coracle(["rm", "--force", &id]).ok();
        assert!(changed.is_none(), "the host's devices were changed: {changed:#?}");
    }
}

#[test]
fn pods_change_no_device_of_the_host() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::stopped("");
    let nodes = Nodes::new(serve.sandbox());
    let mut wrapper = Command::new("unshare");
    wrapper.args(nodes.wrap());
    serve.start_as(serve.command_by(wrapper));
    let before = nodes.look();
    let spy = Spy::new(serve.sandbox(), "spy", Role::Mangle);
    let pod = serve.logged(pod_on_host("mangles"));
    let id = serve.run_pod(&pod);
    let mut failed = Vec::new();
    for stdin in [false, true] {
        let wished = ContainerConfig { stdin, ..spy.in_pod(container(&pod, &format!("start{stdin}"), "")) };
        serve.run_container(&id, &pod, &wished);
        failed.extend(changes(&nodes, &before, &format!("StartContainer, stdin {stdin}"), &spy));
    }
    let wished = spy.in_pod(container(&pod, "execs", ""));
    let command = ["/bin/sh", "-c", "sleep 1000"].map(str::to_owned).into();
    let execs = serve.run_container(&id, &pod, &ContainerConfig { command, ..wished });
    let script = Spy::command().join(" ");
    serve.try_exec(&execs, &script, None).unwrap();
    failed.extend(changes(&nodes, &before, "ExecSync", &spy));
    serve.removes_all();
    assert!(failed.is_empty(), "the host's devices were changed: {failed:#?}");
}

/// The container's own devices are its own: there a change is no harm, and works.
#[test]
fn masked_files_read_as_empty_whoever_changes_them() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let nodes = Nodes::new(&sandbox);
    let before = nodes.look();
    let script = "chmod 000 /proc/keys 2>/dev/null; chmod 000 /secret 2>/dev/null; cat /proc/keys /secret; \
                  echo more >/secret; cat /secret; echo end";
    let bundle = sandbox
        .bundle("writable-root")
        .with_file("secret", "secret\n")
        .with_pushed("/linux/maskedPaths", json!("/secret"))
        .script(script);
    let path = bundle.path().display().to_string();
    let output = nodes.prepare(&sandbox, &["run", "--bundle", &path, &sandbox.id("run")]).go().ok();
    assert_eq!(output.stdout, "end\n", "{output}");
    assert_eq!(nodes.look(), before, "the host's devices were changed");
    wait_until("the file below the mask to be as it was", || {
        (fs::read_to_string(bundle.root().join("secret")).unwrap() == "secret\n").then_some(())
    });
}
