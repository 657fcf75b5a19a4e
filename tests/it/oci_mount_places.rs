//! Mounts in places where people really put them: the host's root, over links that lead nowhere, over devices.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use serde_json::{Value, json};

use crate::support::{Bundle, Sandbox};

fn bind(source: &str, destination: &str, options: &[&str]) -> Value {
    json!({ "destination": destination, "type": "bind", "source": source, "options": options })
}

fn with_mount(bundle: Bundle, mount: Value) -> Bundle {
    bundle.with_pushed("/mounts", mount)
}

#[test]
fn the_hosts_root_is_seen_whole_and_is_not_the_containers() {
    needs!(root, busybox, oci_verbs);
    for (source, options) in [
        ("/", ["rbind", "ro", "rslave"]),
        ("/", ["bind", "ro", "private"]),
        ("/tmp/../", ["rbind", "ro", "rprivate"]),
    ] {
        let sandbox = Sandbox::new();
        let marker = sandbox.path("marker");
        fs::write(&marker, "of the host").unwrap();
        let script = format!("cat /host{}; ls /host/proc/1/stat /host/host 2>&1", marker.display());
        let bundle =
            with_mount(sandbox.bundle("writable-root").script(&script), bind(source, "/host", &options));
        let output = sandbox.run(&bundle);
        assert!(output.stdout.starts_with("of the host"), "{source} {options:?}: {output}");
        let is_recursive = output.stdout.contains("\n/host/proc/1/stat");
        assert_eq!(is_recursive, options[0] == "rbind", "{source} {options:?}: {output}");
        assert!(output.stdout.contains("/host/host: No such file"), "{source} {options:?}: {output}");
    }
}

/// The link of many images: /etc/resolv.conf leads below a directory that only systemd makes.
#[test]
fn a_mount_on_a_link_that_leads_nowhere_is_on_what_it_names() {
    needs!(root, busybox, oci_verbs);
    not_by!(Runc: "version 1.1 differs in links to links");
    let cases = [
        ("../run/systemd/resolve/stub.conf", "/run/systemd/resolve/stub.conf"),
        ("/made/file", "/made/file"),
        ("//made//./file", "/made/file"),
        ("../../../../outside", "/outside"),
        ("second", "/third/file"),
        ("/directory-link/deep/file", "/elsewhere/deep/file"),
    ];
    for (target, place) in cases {
        for kind in ["file", "directory"] {
            let sandbox = Sandbox::new();
            let source = sandbox.path("source");
            let show = if kind == "file" {
                fs::write(&source, "mounted").unwrap();
                format!("cat {place} /etc/link")
            } else {
                fs::create_dir(&source).unwrap();
                fs::write(source.join("f"), "mounted").unwrap();
                format!("cat {place}/f /etc/link/f")
            };
            let bundle = sandbox.bundle("writable-root").script(&show);
            fs::create_dir_all(bundle.root().join("etc")).unwrap();
            symlink(target, bundle.root().join("etc/link")).unwrap();
            symlink("/third/file", bundle.root().join("etc/second")).unwrap();
            symlink("elsewhere", bundle.root().join("directory-link")).unwrap();
            let bundle =
                with_mount(bundle, bind(source.to_str().unwrap(), "/etc/link", &["rbind", "rprivate"]));
            assert_eq!(sandbox.run(&bundle).ok().stdout, "mountedmounted", "{kind}: {target}");
            assert!(bundle.root().join("etc/link").is_symlink(), "{kind}: {target}");
        }
    }
}

#[test]
fn links_that_lead_nowhere_do_not_lead_out_of_the_root_or_in_circles() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let (source, outside) = (sandbox.path("source"), sandbox.path("outside"));
    fs::write(&source, "mounted").unwrap();
    let bundle = sandbox.bundle("writable-root").script("cat /link");
    symlink(&outside, bundle.root().join("link")).unwrap();
    let mount = bind(source.to_str().unwrap(), "/link", &["bind"]);
    assert_eq!(sandbox.run(&with_mount(bundle, mount)).ok().stdout, "mounted");
    assert!(!outside.exists(), "the host's path");
    let circles = Sandbox::new();
    let bundle = circles.bundle("writable-root").script("true");
    symlink("two", bundle.root().join("one")).unwrap();
    symlink("one", bundle.root().join("two")).unwrap();
    let mount = bind(source.to_str().unwrap(), "/one/file", &["bind"]);
    assert!(circles.run(&with_mount(bundle, mount)).fails().stderr.contains("ELOOP"));
}

#[test]
fn a_mount_takes_the_place_of_a_default_device_and_the_hosts_device_keeps_its_owner() {
    needs!(root, busybox, oci_verbs);
    let sandbox = Sandbox::new();
    let node = sandbox.path("null");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &node,
        rustix::fs::FileType::CharacterDevice,
        mode,
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    let bundle = sandbox.bundle("minimal").script("stat -c '%t:%T' /dev/random; stat -c %a /dev/null");
    let device = json!({ "path": "/dev/null", "type": "c", "major": 1, "minor": 3, "fileMode": 0o666, "uid": 7, "gid": 7 });
    let bundle = bundle.with("/linux/devices", json!([device]));
    let bundle = with_mount(bundle, bind("/dev/urandom", "/tmp/../dev//./random", &["bind"]));
    let bundle = with_mount(bundle, bind(node.to_str().unwrap(), "/dev/null", &["bind"]));
    assert_eq!(sandbox.run(&bundle).ok().stdout, "1:9\n600\n");
    let stat = fs::metadata(&node).unwrap();
    assert_eq!((stat.uid(), stat.mode() & 0o777), (0, 0o600));
}

/// Then the source of masked files is neither the container's /dev/null nor a node that the host uses.
#[test]
fn files_are_masked_where_the_hosts_devices_are_mounted() {
    needs!(root, busybox, oci_verbs);
    for (source, destination) in [("/dev", "/dev"), ("/dev/null", "/dev/null")] {
        let sandbox = Sandbox::new();
        let bundle = sandbox.bundle("masked-paths").script("wc -c </proc/keys; chmod 600 /proc/keys 2>&1");
        let bundle = bundle.with("/linux/maskedPaths", json!(["/proc/keys"]));
        let bundle = with_mount(bundle, bind(source, destination, &["bind", "rprivate"]));
        let output = sandbox.run(&bundle);
        assert!(
            output.stdout.starts_with("0\n") && output.stdout.contains("Read-only"),
            "{source}: {output}"
        );
    }
    assert_eq!(fs::metadata("/dev/null").unwrap().mode() & 0o777, 0o666);
}

#[test]
fn a_bind_mount_with_the_option_of_a_filesystem_is_refused() {
    needs!(root, busybox, oci_verbs);
    not_by!(Runc: "version 1.1 ignores them");
    for option in ["src-nofollow", "copy", "size=1m", "no-such-option"] {
        let sandbox = Sandbox::new();
        let bundle =
            with_mount(sandbox.bundle("minimal").script("true"), bind("/tmp", "/tmp", &["rbind", option]));
        let output = sandbox.run(&bundle).fails();
        assert!(output.stderr.contains(option.split('=').next().unwrap()), "{output}");
    }
}
