//! What older kernels lack, tried on this one: strace(1) answers ENOSYS in the kernel's place, to the command, to the
//! container's init and to the payload alike.

use std::fs;

use serde_json::json;

use crate::support::{Bundle, Output, Runtime, Sandbox};

/// `run` of the bundle on a kernel without the system call `missing`; `shell` sets the stage for it.
fn run_without(missing: &str, sandbox: &Sandbox, bundle: &Bundle, shell: &str) -> Output {
    let inject = format!("inject={missing}:error=ENOSYS");
    let trace = sandbox.path("trace");
    let script = format!(
        "{shell}\nexec strace -f -qq --seccomp-bpf -o \"$0\" -e trace={missing},/^fcntl -e {inject} \"$@\""
    );
    let program = Runtime::Ours.program();
    let (id, root) = (sandbox.id("old"), sandbox.root());
    let mut args = vec!["-c".as_ref(), script.as_ref(), trace.as_os_str(), program.as_os_str()];
    args.extend(["--root".as_ref(), root.as_os_str(), "run".as_ref(), "--bundle".as_ref()]);
    args.extend([bundle.path().as_os_str(), id.as_ref()]);
    let output = sandbox.in_view("bash".as_ref(), &args).go();
    let trace = fs::read_to_string(&trace).unwrap();
    assert!(trace.contains("(INJECTED)"), "nobody asked for {missing}: {output} {trace}");
    output
}

#[test]
fn without_mount_setattr_mounts_keep_their_attributes() {
    needs!(root, busybox, oci_verbs, strace);
    let sandbox = Sandbox::new();
    let bind = json!({ "destination": "/data", "type": "bind", "source": "data", "options": ["bind", "ro", "noexec"] });
    let tmpfs =
        json!({ "destination": "/scratch", "type": "tmpfs", "options": ["nosuid", "nodev", "noexec"] });
    let script = "touch /data/new /new /proc/sys/new; awk '$5 ~ \"^/(data|scratch)?$\" { print $5, $6 }' \
                  /proc/self/mountinfo";
    let bundle = sandbox.bundle("minimal").with_pushed("/mounts", bind).with_pushed("/mounts", tmpfs);
    let bundle = bundle.with("/root/readonly", json!(true)).script(script);
    fs::create_dir_all(bundle.path().join("data")).unwrap();
    fs::create_dir_all(bundle.root().join("scratch")).unwrap();
    fs::create_dir_all(bundle.root().join("data")).unwrap();
    let output = run_without("mount_setattr", &sandbox, &bundle, "").ok();
    assert_eq!(output.stderr.matches("Read-only file system").count(), 2, "{output}");
    let options = |target: &str| {
        let line = output.stdout.lines().find(|l| l.split(' ').next() == Some(target)).expect(target);
        line.split_once(' ').unwrap().1.split(',').map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(options("/").contains(&"ro".into()), "{output}");
    assert!(["ro", "noexec"].iter().all(|o| options("/data").contains(&(*o).into())), "{output}");
    assert!(
        ["nosuid", "nodev", "noexec"].iter().all(|o| options("/scratch").contains(&(*o).into())),
        "{output}"
    );
    assert!(!bundle.path().join("data/new").exists() && !bundle.root().join("new").exists());
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn without_mount_setattr_a_recursive_attribute_is_refused_by_name() {
    needs!(root, busybox, oci_verbs, strace);
    let sandbox = Sandbox::new();
    let mount =
        json!({ "destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "rro"] });
    let bundle = sandbox.bundle("minimal").with_pushed("/mounts", mount);
    fs::create_dir_all(bundle.path().join("data")).unwrap();
    let output = run_without("mount_setattr", &sandbox, &bundle, "").fails();
    assert!(output.stderr.contains("mount_setattr"), "{output}");
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn without_close_range_no_file_descriptor_leaks() {
    needs!(root, busybox, oci_verbs, strace);
    let sandbox = Sandbox::new();
    let limit = json!({ "type": "RLIMIT_NOFILE", "soft": 20, "hard": 20 });
    let bundle = sandbox.bundle("minimal").args(&["/bin/ls", "/proc/self/fd"]);
    let bundle = bundle.with("/process/rlimits", json!([limit]));
    let shell = "exec 7</etc/passwd 9</ 33<&1 200</";
    let output = run_without("close_range", &sandbox, &bundle, shell).ok();
    assert_eq!(output.stdout, "0\n1\n2\n3\n");
    let trace = fs::read_to_string(sandbox.path("trace")).unwrap();
    assert!(trace.matches("F_SETFD").count() < 100, "only what is open is marked: {trace}");
}

#[test]
fn without_openat2_a_container_is_refused_by_name() {
    needs!(root, busybox, oci_verbs, strace);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal");
    let output = run_without("openat2", &sandbox, &bundle, "").fails();
    assert!(output.stderr.contains("openat2"), "{output}");
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn without_clone3_a_container_is_refused_by_name() {
    needs!(root, busybox, oci_verbs, strace);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal");
    let output = run_without("clone3", &sandbox, &bundle, "").fails();
    assert!(output.stderr.contains("clone"), "{output}");
    assert_eq!(sandbox.traces(), []);
}
