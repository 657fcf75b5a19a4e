//! `coracle` without `coracle-keeper` beside it, as `cargo run` and a copied program have it: it starts itself as the keeper.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use coracle::keeper::Frame;
use coracle_cri::v1::{NamespaceMode, NamespaceOption};
use rustix::process::{Pid, Signal, kill_process};

use crate::keeper::Kept;
use crate::support::{
    Output, Run, Sandbox, Serve, container, copy_program, coracle_program, pod_with, wait_until,
};

/// A directory with `coracle` and nothing else; the program's path. A second call replaces the program by a new file.
fn install(sandbox: &Sandbox) -> PathBuf {
    let directory = sandbox.path("bin");
    fs::create_dir_all(&directory).unwrap();
    let new = sandbox.path("coracle.new");
    copy_program(coracle_program(), &new);
    fs::rename(new, directory.join("coracle")).unwrap();
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    directory.join("coracle")
}

fn inode(path: impl AsRef<Path>) -> u64 {
    fs::metadata(path).unwrap().ino()
}

fn executed_by(pid: i32) -> u64 {
    inode(format!("/proc/{pid}/exe"))
}

/// `program --root ... --store ... WORDS...`
fn command(kept: &Kept, program: &Path, words: &[&str]) -> Run {
    let sandbox = &kept.sandbox;
    let (root, store) = (sandbox.root(), sandbox.path("store"));
    let mut all: Vec<&OsStr> =
        vec!["--root".as_ref(), root.as_os_str(), "--store".as_ref(), store.as_os_str()];
    all.extend(words.iter().map(OsStr::new));
    sandbox.in_view(program.as_os_str(), &all)
}

fn detached(kept: &Kept, program: &Path, name: &str, script: &str) -> Output {
    let id = kept.sandbox.id(name);
    let words = ["launch", "--detach", "--interactive", "--name", &id, "box", "/bin/sh", "-c", script];
    command(kept, program, &words).go()
}

#[test]
fn it_is_its_own_keeper_which_survives_an_upgrade_and_a_kill() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    let program = install(&kept.sandbox);
    detached(&kept, &program, "box", "echo begun; read x; echo \"$x\"; exit 5").ok();
    let (keeper, heir) = kept.keeper();
    assert_eq!([executed_by(keeper), executed_by(heir)], [inode(&program); 2]);
    let command_line = fs::read_to_string(format!("/proc/{keeper}/cmdline")).unwrap();
    assert!(command_line.starts_with("coracle-keeper\0--run\0"), "{command_line:?}");

    install(&kept.sandbox);
    kept.signal_keeper(Signal::HUP);
    wait_until("the new program's heir", || (kept.keeper().1 != heir).then_some(()));
    let (same, second_heir) = kept.keeper();
    assert_eq!(
        (same, executed_by(same)),
        (keeper, inode(&program)),
        "it executes the program that lies there now"
    );

    kill_process(Pid::from_raw(keeper).unwrap(), Signal::KILL).unwrap();
    wait_until("the heir to take over", || (kept.keeper().0 == second_heir).then_some(()));
    let attached = kept.client().attach(&kept.sandbox.id("box"), true).unwrap();
    attached.send(&Frame::Input(b"well\n")).unwrap();
    assert_eq!(kept.wait("box"), 5);
    assert_eq!(kept.logs("box"), "begun\nwell\n");
    command(&kept, &program, &["rm", &kept.sandbox.id("box")]).go().ok();
}

#[test]
fn a_variable_names_another_keeper_and_one_that_is_missing_is_named() {
    needs!(root, busybox, launch_verb);
    let kept = Kept::new();
    let program = install(&kept.sandbox);
    let missing = kept.sandbox.path("missing");
    let id = kept.sandbox.id("box");
    let words = ["launch", "--detach", "--name", &id, "box", "/bin/true"];
    let output = command(&kept, &program, &words).env("CORACLE_KEEPER", &missing).go();
    assert_eq!(output.code(), Some(125), "{output}");
    assert!(output.stderr.contains(&format!("start {}", missing.display())), "{output}");
    assert!(output.stderr.contains("without it, coracle starts itself"), "{output}");
}

#[test]
fn its_name_decides_whether_it_is_the_keeper() {
    needs!(root, launch_verb);
    let sandbox = Sandbox::new();
    let program = install(&sandbox);
    let link = sandbox.path("coracle-keeper");
    std::os::unix::fs::symlink(&program, &link).unwrap();
    let version = |program: &Path| Run::new(program).arg("--version").go().ok().stdout;
    assert!(version(&link).starts_with("coracle-keeper "), "{}", version(&link));
    assert!(version(&program).starts_with("coracle 0"), "{}", version(&program));
}

#[test]
fn pods_run_and_share_a_pid_namespace() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::stopped("");
    let program = install(serve.sandbox());
    serve.start_as(serve.command_of(&program));
    let options = NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Pod.into(),
        ..NamespaceOption::default()
    };
    let pod = serve.logged(pod_with("shared", options));
    let id = serve.run_pod(&pod);
    let container = serve.run_container(&id, &pod, &container(&pod, "box", "echo ready; exec sleep 1000"));
    serve.logs("box", "stdout F ready");
    assert_eq!(executed_by(serve.kept().keeper().0), inode(&program));
    let first = serve.output_in(&container, "tr '\\0' ' ' < /proc/1/cmdline");
    assert_eq!(first.trim(), "/coracle-keeper pod-init");
    serve.removes_all();
}
