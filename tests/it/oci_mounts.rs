//! What the payload sees of the file system: its root, mounts, devices, hidden and read-only paths.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use serde_json::json;

use crate::support::{Bundle, Sandbox};

#[test]
fn a_read_only_root_refuses_writes() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").script("touch /new; touch /dev/shm/new && echo memory");
    let output = sandbox.run(&bundle).ok();
    assert!(output.stderr.contains("Read-only file system"), "{output}");
    assert_eq!(output.text(), "memory");
    assert!(!bundle.root().join("new").exists());
}

#[test]
fn a_writable_root_is_the_bundles() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("writable-root");
    assert_eq!(sandbox.run(&bundle).ok().text(), "written");
    assert!(bundle.root().join("new").exists());
}

#[test]
fn nothing_of_the_host_is_mounted_that_was_not_asked_for() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let output = sandbox.run(&sandbox.bundle("minimal").script("cut -d' ' -f2 /proc/mounts")).ok();
    let roots = ["/", "/proc", "/dev", "/sys"];
    let strange = output.stdout.lines().filter(|at| !roots.contains(at));
    let strange = strange.filter(|at| !["/proc/", "/dev/", "/sys/"].iter().any(|p| at.starts_with(p)));
    assert_eq!(strange.collect::<Vec<_>>(), [""; 0], "{output}");
    assert_eq!(output.stdout.lines().filter(|at| *at == "/").count(), 1, "the old root is gone: {output}");
}

#[test]
fn a_tmpfs_has_the_size_mode_and_flags_asked_for() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("tmpfs");
    let output = sandbox.run(&bundle).ok();
    let line = output.stdout.lines().next().unwrap();
    for word in ["nosuid", "nodev", "noexec", "size=1024k", "mode=1770"] {
        assert!(line.contains(word), "{word}: {line}");
    }
    output.has_line("written");
    assert!(!bundle.root().join("scratch/new").exists());
}

#[test]
fn bind_mounts_show_the_hosts_files() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("bind-mounts");
    let output = sandbox.run(&bundle).ok();
    assert_eq!(output.stdout, "hello from the host\nhello from the host\nwritten\nend\n");
    assert!(output.stderr.contains("Read-only file system"), "{output}");
    assert!(bundle.path().join("data/new").exists());
}

#[test]
fn the_flags_of_a_bind_mount_hold() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let output = sandbox.run(&sandbox.bundle("bind-mounts").script("grep ' /fixed ' /proc/mounts")).ok();
    let options = output.stdout.split(' ').nth(3).unwrap();
    for flag in ["ro", "nosuid", "nodev", "noexec"] {
        assert!(options.split(',').any(|option| option == flag), "{flag}: {output}");
    }
}

#[test]
fn a_recursive_read_only_bind_reaches_the_mounts_below() {
    needs!(root, busybox, oci_verbs);
    not_by!(Crun: "Debian's crun 1.8.1 cannot make a mount below recursively read-only here");
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("minimal").script("touch /data/below/new || echo refused").with_pushed(
        "/mounts",
        json!({ "destination": "/data", "type": "bind", "source": "data", "options": ["rbind", "rro"] }),
    );
    let bundle = bundle.with("/root/readonly", json!(false));
    fs::create_dir_all(bundle.path().join("data/below")).unwrap();
    let mount = format!("mount -t tmpfs none {}", bundle.path().join("data/below").display());
    let script = format!("unshare --mount sh -c '{mount} && exec \"$@\"' sh \"$@\"");
    let run = sandbox.prepare_script(&script, ["run", "--bundle"]).arg(bundle.path());
    assert_eq!(run.arg(sandbox.id("run")).go().ok().text(), "refused");
}

#[test]
fn a_missing_bind_source_is_named() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let mount =
        json!({ "destination": "/data", "type": "bind", "source": "/not/there", "options": ["bind"] });
    let output = sandbox.run(&sandbox.bundle("minimal").with_pushed("/mounts", mount)).fails();
    assert!(output.stderr.contains("/not/there"), "{output}");
    assert_eq!(sandbox.traces(), []);
}

#[test]
fn later_mounts_lie_on_earlier_ones() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox
        .bundle("bind-mounts")
        .with_pushed("/mounts", json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs" }))
        .with_pushed("/mounts", json!({ "destination": "/data/deep/er", "type": "tmpfs", "source": "tmpfs" }))
        .script("ls -A /data; touch /data/deep/er/new && echo written");
    assert_eq!(sandbox.run(&bundle).ok().stdout, "deep\nwritten\n");
}

#[test]
fn masked_paths_hold_nothing() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("masked-paths");
    assert_eq!(sandbox.run(&bundle).ok().stdout, "end\n");
    let bundle = bundle.with("/root/readonly", json!(false));
    let output =
        sandbox.run(&bundle.script("touch /etc/private/new || echo refused; wc -c </etc/secret")).ok();
    assert_eq!(output.stdout, "refused\n0\n");
}

#[test]
fn read_only_paths_refuse_writes() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("readonly-paths");
    let output = sandbox.run(&bundle).ok();
    assert!(output.text() == "end" && output.stderr.contains("Read-only file system"), "{output}");
    assert!(!bundle.root().join("etc/fixed/new").exists());
    let output = sandbox.run(&bundle.script("echo 1 >/proc/sys/kernel/msgmax; echo code $?")).ok();
    assert_eq!(output.text(), "code 1");
}

#[test]
fn the_usual_devices_are_there() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let nodes = ["null 1:3", "zero 1:5", "full 1:7", "random 1:8", "urandom 1:9", "tty 5:0"];
    let bundle = sandbox.bundle("minimal").script(
        "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %t:%T %a %F' $d; done; \
         for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done; echo gone >null; head -c 3 zero | wc -c",
    );
    let output = sandbox.run(&bundle).ok();
    for node in nodes {
        output.has_line(&format!("{node} 666 character special file"));
    }
    for link in
        ["fd /proc/self/fd", "stdin /proc/self/fd/0", "stdout /proc/self/fd/1", "stderr /proc/self/fd/2"]
    {
        output.has_line(link);
    }
    assert!(
        output.stdout.contains("ptmx pts/ptmx\n") || output.stdout.contains("ptmx /dev/pts/ptmx\n"),
        "{output}"
    );
    output.has_line("3");
}

#[test]
fn a_device_of_the_bundle_is_made_as_described() {
    needs!(root, busybox, oci_verbs, cgroup1);
    let sandbox = Sandbox::new();
    // It is the kernel's log: the bundle allows reading it and nothing else.
    let output = sandbox.run(&sandbox.bundle("devices")).fails();
    assert!(output.stdout.starts_with("1:b 640 0:8\nreadable\n"), "{output}");
    assert!(output.stdout.contains("Operation not permitted"), "{output}");
}

#[test]
fn a_device_that_is_not_allowed_cannot_be_opened() {
    needs!(root, busybox, oci_verbs, cgroup1);
    let sandbox = Sandbox::new();
    // 1:11 is kmsg, which no runtime allows by default; 1:3 is null, which every one does.
    let script =
        "mknod /dev/shm/kmsg c 1 11; mknod /dev/shm/nothing c 1 3; echo x >/dev/shm/nothing && echo wrote";
    let bundle = with_capability(sandbox.bundle("minimal"), "CAP_MKNOD")
        .script(&format!("{script}; cat /dev/shm/kmsg"));
    let bundle = bundle.edit(|config| {
        let shm =
            config["mounts"].as_array_mut().unwrap().iter_mut().find(|m| m["destination"] == "/dev/shm");
        shm.unwrap()["options"] = json!(["nosuid", "noexec", "mode=1777", "size=65536k"]);
    });
    let output = sandbox.run(&bundle).fails();
    assert!(output.stderr.contains("Operation not permitted"), "{output}");
    output.has_line("wrote");
}

fn with_capability(bundle: Bundle, name: &str) -> Bundle {
    ["bounding", "permitted", "effective"]
        .iter()
        .fold(bundle, |bundle, set| bundle.with_pushed(&format!("/process/capabilities/{set}"), json!(name)))
}

#[test]
fn a_link_in_the_root_does_not_lead_a_mount_out_of_it() {
    needs!(root, busybox, oci_verbs);
    for target in ["/", "../../../../../../../../..", "/proc/self/root"] {
        let sandbox = Sandbox::new();
        let outside = sandbox.path("outside");
        fs::create_dir(&outside).unwrap();
        let bundle = sandbox.bundle("writable-root").script("echo ran");
        symlink(target, bundle.root().join("link")).unwrap();
        let destination = format!("/link{}", outside.display());
        let mount = json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": ["mode=700"] });
        // Refusing is as good as staying inside; touching the host is not.
        sandbox.run(&bundle.with_pushed("/mounts", mount));
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o777, 0o755, "{target}: the host's directory");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    }
}

#[test]
fn a_link_inside_the_root_is_followed_there() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("writable-root").script("touch /real/new && echo written");
    fs::create_dir(bundle.root().join("real")).unwrap();
    symlink("/real", bundle.root().join("link")).unwrap();
    let mount = json!({ "destination": "/link", "type": "tmpfs", "source": "tmpfs" });
    let bundle = bundle.with_pushed("/mounts", mount);
    assert_eq!(sandbox.run(&bundle).ok().text(), "written");
    assert!(!bundle.root().join("real/new").exists(), "it was written to the tmpfs");
}

#[test]
fn mounts_made_inside_do_not_reach_the_host() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = with_capability(sandbox.bundle("writable-root"), "CAP_SYS_ADMIN");
    let bundle =
        bundle.script("mount -t tmpfs none /tmp && grep -c ' /tmp ' /proc/mounts; echo up; exec sleep 1000");
    sandbox.run_detached(&bundle, "web", &[]).ok();
    assert_eq!(sandbox.wait_for_output("web", "up"), "1\nup\n");
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!table.contains(bundle.root().to_str().unwrap()));
}

#[test]
fn the_root_is_private_or_shared_as_asked() {
    needs!(root, busybox, oci_verbs);
    let root_line =
        |text: &str| text.lines().find(|line| line.split(' ').nth(4) == Some("/")).unwrap().to_owned();
    let sandbox = Sandbox::new();
    let private = sandbox.run(&sandbox.bundle("minimal").script("cat /proc/self/mountinfo")).ok();
    assert!(!root_line(&private.stdout).contains("shared:"), "{private}");
    not_by!(Runc: "runc takes rootfsPropagation for the parent mount alone");
    let shared = sandbox.run(&sandbox.bundle("shared-root")).ok();
    assert!(root_line(&shared.stdout).contains("shared:"), "{shared}");
}

#[test]
fn the_cgroup_mount_shows_the_containers_own_tree_read_only() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("cgroup-namespace").script(
        "cut -d: -f3 /proc/self/cgroup | sort -u; grep -c ' /sys/fs/cgroup' /proc/mounts; \
         d=$(ls -d /sys/fs/cgroup/pids /sys/fs/cgroup 2>/dev/null | tail -n 1); mkdir $d/new || echo refused",
    );
    let output = sandbox.run(&bundle).ok();
    assert_eq!(output.stdout.lines().next(), Some("/"), "{output}");
    output.has_line("refused");
}
