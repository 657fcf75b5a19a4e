//! What older kernels lack, tried on this one: strace(1) answers ENOSYS in the kernel's place, to the command, to the
//! container's init and to the payload alike.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use coracle::image::rootfs;
use coracle::linux::id_map::IdMaps;
use serde_json::json;

use crate::image_fixture::{Image, Layout, Member, Pack, tar};
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

/// An image of `count` layers with a shell in the lowest, each of which overwrites `top` and adds a file of its own.
fn layers(count: usize) -> Vec<Vec<u8>> {
    let busybox = fs::read("/bin/busybox").unwrap();
    let base =
        tar(&[Member::Dir("bin/", 0o755), Member::Program("bin/sh", &busybox), Member::Dir("d/", 0o755)]);
    let numbers: Vec<(String, String)> =
        (1..count).map(|number| (format!("d/{number}"), number.to_string())).collect();
    let above = numbers.iter().map(|(name, number)| {
        tar(&[Member::File(name, number.as_bytes()), Member::File("top", number.as_bytes())])
    });
    std::iter::once(base).chain(above).collect()
}

/// An emulated board takes a second for each four layers.
const SLOW: Duration = Duration::from_secs(240);

/// Imports an image of `count` layers into `store`.
fn import_layers(sandbox: &Sandbox, store: &Path, count: usize) {
    let layout = Layout::of(Image {
        layers: layers(count),
        pack: Pack::Gzip,
        platform: "",
        name: Some("localhost/many:1"),
    });
    let archive = sandbox.path("many.tar");
    fs::write(&archive, layout.tar(false)).unwrap();
    let import: [&OsStr; 5] =
        ["--store".as_ref(), store.as_ref(), "image".as_ref(), "import".as_ref(), archive.as_ref()];
    sandbox.prepare(import).patience(SLOW).go().ok();
}

/// Checks the files of a container of the image of `count` layers in `store`, on a kernel that refuses what `refused` says
/// to strace(1).
#[track_caller]
fn launch_layers(sandbox: &Sandbox, store: &Path, count: usize, refused: Option<&str>) {
    let id = sandbox.id("many");
    let (program, root, trace) = (Runtime::Ours.program(), sandbox.root(), sandbox.path("trace"));
    let mut args: Vec<&OsStr> = Vec::new();
    if let Some(refused) = refused {
        // Not the threads and processes that it makes: the container's init configures file systems, too.
        args.extend(["strace".as_ref(), "-qq".as_ref(), "-o".as_ref(), trace.as_os_str()]);
        args.extend(["-e", "trace=fsopen,fsconfig", "-e", refused].map(OsStr::new));
    }
    args.extend([program.as_os_str(), "--root".as_ref(), root.as_ref(), "--store".as_ref(), store.as_ref()]);
    args.extend(["launch", "--rm", "--pull", "never", "--name", &id].map(OsStr::new));
    let script = "cat /top; echo; set -- /d/*; echo $#; echo new >/top; cat /top /d/1";
    args.extend(["localhost/many:1", "/bin/sh", "-c", script].map(OsStr::new));
    let (first, rest) = args.split_first().unwrap();
    let output = sandbox.in_view(first, rest).patience(SLOW).go().ok();
    assert_eq!(output.stdout, format!("{0}\n{0}\nnew\n1", count - 1), "{refused:?} {store:?}");
    if refused.is_some() {
        let trace = fs::read_to_string(&trace).unwrap();
        assert!(trace.contains("(INJECTED)"), "{trace}");
    }
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn without_lowerdir_plus_an_image_of_127_layers_starts() {
    needs!(root, busybox, launch_verb, strace);
    for count in [2, 127] {
        let sandbox = Sandbox::new();
        let store = sandbox.path("store");
        import_layers(&sandbox, &store, count);
        // The second parameter is the first layer; the first is the source.
        launch_layers(&sandbox, &store, count, Some("inject=fsconfig:error=EINVAL:when=2"));
        launch_layers(&sandbox, &store, count, Some("inject=fsopen:error=ENOSYS"));
    }
}

#[test]
fn an_image_of_127_layers_starts_from_a_store_with_any_path() {
    needs!(root, busybox, launch_verb);
    let sandbox = Sandbox::new();
    let mut store = sandbox.path("a,b\\c:d");
    import_layers(&sandbox, &store, 127);
    let long = format!("{}/{}", "s".repeat(250), "t".repeat(250));
    for name in ["a\\b", "a:b", "a,b", "a b", "\\", "\\,\\:", "a=b", "\u{e4}", &long] {
        let moved = sandbox.path(name);
        fs::create_dir_all(moved.parent().unwrap()).unwrap();
        fs::rename(&store, &moved).unwrap();
        store = moved;
        launch_layers(&sandbox, &store, 127, None);
    }
}

#[test]
fn layers_are_mounted_read_only_or_with_mapped_owners_whatever_their_path() {
    needs!(root);
    let ids = "0 100000 65536\n".to_owned();
    let maps = IdMaps { uid: ids.clone(), gid: ids };
    for name in ["plain", "a\\b,c:d"] {
        let dir = tempfile::tempdir().unwrap();
        let layer = |number: usize| {
            let layer = dir.path().join(name).join(number.to_string()).join("fs");
            fs::create_dir_all(&layer).unwrap();
            fs::write(layer.join(number.to_string()), "own").unwrap();
            fs::write(layer.join("top"), number.to_string()).unwrap();
            layer
        };
        let mut lower: Vec<_> = (0..127).map(layer).collect();
        // The same layer may come again further down.
        lower.push(lower[5].clone());
        // KERNEL(5.19), and not on every file system.
        let probe = dir.path().join("probe");
        fs::create_dir_all(&probe).unwrap();
        let few = [lower[0].clone()];
        let can_map = rootfs::mount_mapped(&few, &probe, &maps, (100_000, 100_000)).is_ok();
        for mapped in [false, true].into_iter().filter(|mapped| can_map || !mapped) {
            let directory = dir.path().join(name).join(format!("mounted-{mapped}"));
            fs::create_dir_all(&directory).unwrap();
            let mounted = match mapped {
                true => rootfs::mount_mapped(&lower, &directory, &maps, (100_000, 100_000)).unwrap(),
                false => rootfs::mount_read_only(&lower, &directory).unwrap(),
            };
            let inside =
                |file: &str| Path::new("/proc/self/fd").join(mounted.as_raw_fd().to_string()).join(file);
            assert_eq!(fs::read_to_string(inside("top")).unwrap(), "0", "{name}");
            assert_eq!(fs::read_to_string(inside("126")).unwrap(), "own", "{name}");
            let owner = if mapped { 100_000 } else { 0 };
            assert_eq!(fs::metadata(inside("top")).unwrap().uid(), owner, "{name}");
            assert_eq!(fs::write(inside("new"), "").is_ok(), mapped, "{name}");
        }
        // Nothing is left on the host.
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(dir.path().to_str().unwrap()), "{mounts}");
    }
}
