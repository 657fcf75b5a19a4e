//! What other local users can see of containers: nothing, whatever the umask of whoever started them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle_cri::v1::*;

use crate::layering::sources;
use crate::support::{Sandbox, Serve, container, pod_on_host, pod_with};

/// Ways to make files and directories, or to change what others may do with them.
const WAYS: [&str; 12] = [
    "create_dir",
    "DirBuilder",
    "File::create",
    "File::options",
    "OpenOptions",
    "fs::write(",
    "fs::copy(",
    "mkdirat(",
    "mknodat(",
    "OFlags::CREATE",
    "set_permissions",
    "UnixListener::bind",
];

/// Who makes files by hand all the same: path prefix below `src/`, and why that is right.
const MAKERS: &[(&str, &str)] = &[
    ("linux/private.rs", "the one place"),
    ("launch/init/", "in the container's root, with the umask 0 and the modes of the plan"),
    ("image/layer/", "what a layer says, below a directory that is closed"),
    ("image/inherit_dir_attrs.rs", "appends to a record that is there"),
    ("image/sandbox/cage.rs", "opens /dev/null"),
    ("cgroup/", "the kernel sets the modes of cgroups"),
    ("keeper/cgroup.rs", "the kernel sets the modes of cgroups"),
    ("keeper/event_loop/spawn.rs", "writes to /proc"),
    ("linux/user_namespace.rs", "writes to /proc"),
    ("launch/apply.rs", "writes to /proc"),
    ("pod/sandbox/namespaces.rs", "writes to /proc/sys"),
    ("store/prepare.rs", "closes a store that is there"),
    ("serve/socket.rs", "binds sockets within a umask of its own, while the daemon has one thread"),
];

#[test]
fn files_are_made_in_one_place() {
    let is_test = |path: &str| path.contains("/tests") || path.ends_with("conformance.rs");
    let mut found = Vec::new();
    for file in sources("src").into_iter().chain(sources("cri/src")) {
        let inside = file.path.strip_prefix("src/").unwrap_or(&file.path);
        if is_test(&file.path) || MAKERS.iter().any(|(prefix, _)| inside.starts_with(prefix)) {
            continue;
        }
        found.extend(
            WAYS.iter().filter(|way| file.code.contains(**way)).map(|way| format!("{inside}: {way}")),
        );
    }
    assert!(found.is_empty(), "make files by linux::private, which sets their modes: {found:#?}");
}

#[test]
fn each_exception_is_needed() {
    for (prefix, _) in MAKERS {
        let path = |file: &crate::layering::Source| file.path.strip_prefix("src/").map(str::to_owned);
        let needed = sources("src").into_iter().any(|file| {
            path(&file).is_some_and(|path| path.starts_with(prefix))
                && WAYS.iter().any(|way| file.code.contains(way))
        });
        assert!(needed, "{prefix} makes no files any more");
    }
}

/// What nobody, a user without rights, can read, write or enter of these paths and all below them.
fn open_to_nobody(paths: &[PathBuf]) -> String {
    let find = "find \"$@\" \\( -readable -o -writable -o -executable \\) ! -type l 2>/dev/null; true";
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", find, "sh"])
        .args(paths)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// All below a directory that group or others may use, with its mode; what containers see of it, and mounts, are left out.
fn loose(root: &Path) -> Vec<String> {
    const OF_CONTAINERS: [&str; 10] =
        ["fs", "upper", "shm", "hosts", "hostname", "resolv.conf", "root", "empty", "work", "init"];
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let (path, name) = (entry.path(), entry.file_name().into_string().unwrap());
            let Ok(meta) = path.symlink_metadata() else { continue };
            if meta.is_symlink() || OF_CONTAINERS.contains(&name.as_str()) {
                continue;
            }
            let is_namespace =
                meta.is_file() && ["net", "ipc", "uts", "pid", "user"].contains(&name.as_str());
            let may = if name == "coracle.sock" || name == "log" { 0o060 } else { 0 };
            if meta.mode() & 0o077 & !may != 0 && !is_namespace {
                found.push(format!("{:o} {}", meta.mode() & 0o7777, path.display()));
            }
            // A mode without the owner's rights is as wrong: users without capabilities could not go on.
            if meta.is_dir() && meta.mode() & 0o700 != 0o700 {
                found.push(format!("{:o} {}", meta.mode() & 0o7777, path.display()));
            }
            if meta.is_dir() && meta.dev() == root.metadata().unwrap().dev() {
                directories.push(path);
            }
        }
    }
    found
}

const UMASKS: [&str; 3] = ["0", "0022", "0777"];

fn with_umask(mask: &str) -> String {
    format!("umask {mask}; exec \"$@\"")
}

#[test]
fn nobody_sees_a_container_of_the_oci_verbs() {
    needs!(root, busybox, oci_verbs);
    for mask in UMASKS {
        let sandbox = Sandbox::new();
        let bundle = sandbox.bundle("minimal").script("cat /proc/mounts >/dev/null; sleep 100");
        let bundle = bundle.with_pushed("/process/env", serde_json::json!("PASSWORD=secret"));
        let (id, pid_file) = (sandbox.id("secret"), sandbox.path("pid"));
        let run = sandbox.prepare_script(&with_umask(mask), ["--log"]).arg(sandbox.path("log"));
        let run =
            run.args(["run", "-d", "--pid-file"]).arg(&pid_file).arg("--bundle").arg(bundle.path()).arg(&id);
        run.output_into(&sandbox.path("out")).go().ok();
        assert_eq!(open_to_nobody(&[sandbox.root()]), "", "{mask}");
        let within = [sandbox.root()].map(|root| loose(&root)).concat();
        assert!(within.is_empty(), "{mask}: {within:#?}");
        assert_eq!(fs::metadata(&pid_file).unwrap().mode() & 0o7777, 0o644, "{mask}");
        sandbox.prepare_script(&with_umask(mask), ["exec", &id, "true"]).go().ok();
        // The one that fails writes to the log.
        let log = sandbox.prepare_script(&with_umask(mask), ["--log"]).arg(sandbox.path("log"));
        log.args(["start", "nothing"]).go().fails();
        assert_eq!(fs::metadata(sandbox.path("log")).unwrap().mode() & 0o7777, 0o640, "{mask}");
    }
}

#[test]
fn nobody_sees_a_launched_container() {
    needs!(root, busybox, launch_verb);
    for mask in UMASKS {
        let kept = crate::keeper::Kept::new();
        let sandbox = &kept.sandbox;
        let (store, id) = (sandbox.path("store"), sandbox.id("secret"));
        let run = sandbox.prepare_script(&with_umask(mask), ["--store"]).arg(&store);
        let run = run.args(["launch", "-d", "--name", &id, "--user=1000", "-e", "PASSWORD=secret", "box"]);
        // A user of the container reads what is its to read.
        run.args(["sh", "-c", "cat /etc/hosts /etc/hostname /etc/resolv.conf && echo read; sleep 100"])
            .go()
            .ok();
        let log = store.join("containers").join(&id).join("log");
        crate::support::wait_until("the container to read its files", || {
            fs::read_to_string(&log).ok().filter(|text| text.contains("stdout F read"))
        });
        let places = [sandbox.root(), sandbox.path("run"), store];
        assert_eq!(open_to_nobody(&places), "", "{mask}");
        let within = places.map(|place| loose(&place)).concat();
        assert!(within.is_empty(), "{mask}: {within:#?}");
        assert_eq!(fs::metadata(&log).unwrap().mode() & 0o7777, 0o640, "{mask}");
        sandbox.coracle(["rm", "--force", &id]).ok();
    }
}

#[test]
fn nobody_sees_a_pod() {
    needs!(root, busybox, launch_verb);
    for mask in UMASKS {
        let serve = Serve::stopped("");
        let mut shell = Command::new("sh");
        shell.args(["-c", &with_umask(mask), "sh"]);
        serve.start_as(serve.command_by(shell));
        let shared = NamespaceOption {
            network: NamespaceMode::Node.into(),
            pid: NamespaceMode::Pod.into(),
            ..Default::default()
        };
        for pod in [pod_on_host("own"), pod_with("shared", shared)] {
            let pod = serve.logged(pod);
            let id = serve.run_pod(&pod);
            let name = pod.metadata.as_ref().unwrap().name.clone();
            let mut config = container(&pod, &name, "sleep 100");
            config.envs.push(KeyValue { key: "PASSWORD".to_owned(), value: b"secret".to_vec() });
            let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            security.run_as_user = Some(Int64Value { value: 1000 });
            let c = serve.run_container(&id, &pod, &config);
            let script =
                "cat /etc/hosts /etc/hostname /etc/resolv.conf >/dev/null && echo x >/dev/shm/x && echo ok";
            assert_eq!(serve.output_in(&c, script), "ok", "{mask}");
            let log = serve.path(&format!("logs/{name}.log"));
            assert_eq!(fs::metadata(log).unwrap().mode() & 0o7777, 0o640, "{mask}");
        }
        let run = serve.kept().run_dir();
        let places = [serve.sandbox().root(), run.clone(), serve.path("store")];
        assert_eq!(open_to_nobody(&places), "", "{mask}");
        let within = places.map(|place| loose(&place)).concat();
        assert!(within.is_empty(), "{mask}: {within:#?}");
        serve.removes_all();
    }
}

#[test]
fn what_an_earlier_version_left_open_is_closed() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("old"));
    let id = serve.run_pod(&pod);
    let c = serve.run_container(&id, &pod, &container(&pod, "c", "sleep 100"));
    serve.kill();
    let (run, root) = (serve.kept().run_dir(), serve.sandbox().root());
    let pods = run.join("pods");
    let of_pod = pods.join(&id);
    let of_container = of_pod.join("containers").join(&c);
    let all = [run, pods, of_pod, of_container, root.join(&c)];
    for directory in &all {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o711)).unwrap();
    }
    serve.start();
    for directory in &all {
        assert_eq!(fs::metadata(directory).unwrap().mode() & 0o7777, 0o700, "{}", directory.display());
    }
    serve.removes_all();
}

#[test]
fn a_run_directory_that_is_not_ours_is_refused() {
    needs!(root, launch_verb);
    let serve = Serve::stopped("");
    let run = serve.kept().run_dir();
    let refused = |why: &str| {
        let output = serve.prepare().go().fails();
        assert!(output.stderr.contains(why), "{why}: {output}");
    };
    fs::create_dir(serve.path("elsewhere")).unwrap();
    symlink(serve.path("elsewhere"), &run).unwrap();
    refused("is a symbolic link");
    fs::remove_file(&run).unwrap();
    fs::create_dir(&run).unwrap();
    chown(&run, Some(65534), None).unwrap();
    refused("belongs to user 65534");
    chown(&run, Some(0), None).unwrap();
    fs::create_dir(run.join("of-others")).unwrap();
    fs::set_permissions(&run, fs::Permissions::from_mode(0o777)).unwrap();
    refused("can be written by other users");
    assert_eq!(fs::read_dir(serve.path("elsewhere")).unwrap().count(), 0);
}

#[test]
fn a_root_of_containers_that_others_own_is_refused() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").args(&["/bin/true"]);
    fs::create_dir(sandbox.root()).unwrap();
    chown(sandbox.root(), Some(65534), None).unwrap();
    let output = sandbox.run(&bundle).fails();
    assert!(output.stderr.contains("belongs to user 65534"), "{output}");
    chown(sandbox.root(), Some(0), None).unwrap();
    fs::set_permissions(sandbox.root(), fs::Permissions::from_mode(0o777)).unwrap();
    let output = sandbox.run(&bundle).fails();
    assert!(output.stderr.contains("can be written by other users"), "{output}");
    fs::set_permissions(sandbox.root(), fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.run(&bundle).ok();
    // Hooks of a record that another has put there are not ours to execute.
    let id = sandbox.id("planted");
    let hook = serde_json::json!([{ "path": "/bin/sh", "args": ["sh", "-c", format!("touch {}", sandbox.path("ran").display())] }]);
    let record = serde_json::json!({ "id": id, "init_process_pid": 0, "init_process_start": 0, "created": "",
        "coracle": { "version": 1, "hooks": { "poststop": hook } } });
    fs::create_dir(sandbox.root().join(&id)).unwrap();
    fs::write(sandbox.root().join(&id).join("state.json"), record.to_string()).unwrap();
    chown(sandbox.root().join(&id).join("state.json"), Some(65534), None).unwrap();
    for verb in [&["delete"][..], &["start"], &["state"]] {
        sandbox.runtime(verb.iter().copied().chain([id.as_str()])).fails();
    }
    assert!(!sandbox.path("ran").exists());
    fs::remove_dir_all(sandbox.root().join(&id)).unwrap();
}
