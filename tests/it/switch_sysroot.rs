//! `coracle k3s --sysroot`: nothing outside of the image is read or changed.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use crate::support::{Run, coracle_program};
use crate::switch::{Node, UNIT};

#[test]
fn links_of_an_image_lead_nowhere_out_of_it() {
    needs!(root);
    // The same links that would lead to this directory of the machine lead to one of the image's.
    let host = tempfile::tempdir().unwrap();
    let outside = |name: &str| host.path().join(name);
    let up = format!("/..{}", "/..".repeat(20));
    for link in [host.path().to_owned(), PathBuf::from(format!("..{up}{}", host.path().display()))] {
        let node = Node::k3s();
        fs::create_dir_all(node.path("var/lib")).unwrap();
        symlink(&link, node.path("var/lib/rancher")).unwrap();
        let inner = host.path().strip_prefix("/").unwrap().join("k3s/agent/containerd");
        fs::create_dir_all(outside("k3s/agent/containerd")).unwrap();
        fs::write(outside("k3s/agent/containerd/kept"), "").unwrap();
        let root = node.containerd(inner.to_str().unwrap());
        let done = node.run(&["enable", "--remove-containerd-data"]).ok();
        assert!(done.stdout.contains("imported") && !root.exists(), "{done}");
        assert!(outside("k3s/agent/containerd/kept").exists(), "{done}");
    }
    // `data-dir` with `..`, and links in the place of every directory that is written.
    let node = Node::k3s();
    fs::create_dir_all(outside("data/agent/containerd")).unwrap();
    let data = format!("data-dir: {up}{}/data\n", host.path().display());
    node.write("etc/rancher/k3s/config.yaml", &data);
    let _ = node.run(&["enable", "--remove-containerd-data"]);
    assert!(outside("data/agent/containerd").exists());
    for part in [
        "etc/rancher/k3s/config.yaml.d",
        "etc/systemd/system/k3s.service.d",
        "etc/coracle",
        "var/lib/coracle",
    ] {
        let node = Node::k3s();
        node.containerd("var/lib/rancher/k3s/agent/containerd");
        node.write("etc/rancher/k3s/config.yaml.d2/x", "");
        fs::create_dir_all(node.path(part).parent().unwrap()).unwrap();
        fs::create_dir_all(outside("empty")).unwrap();
        symlink(outside("empty"), node.path(part)).unwrap();
        node.write(
            "etc/systemd/system/k3s.service",
            &format!("{UNIT}\t'--private-registry=/data/r.yaml' \\\n"),
        );
        node.run(&["enable"]).ok();
        assert_eq!(fs::read_dir(outside("empty")).unwrap().count(), 0, "{part}");
        assert!(node.path(&outside("empty").display().to_string()[1..]).exists(), "{part}");
    }
    // Code that opens files by itself gets no links at all.
    for part in [
        "var/lib/coracle/layers",
        "var/lib/rancher/k3s/agent/containerd/io.containerd.content.v1.content",
        "var/lib/rancher/k3s/agent/containerd/io.containerd.metadata.v1.bolt",
        "etc/coracle/config.d",
        "etc/coracle/config.d/x.toml",
    ] {
        let node = Node::k3s();
        node.containerd("var/lib/rancher/k3s/agent/containerd");
        let _ = fs::remove_dir_all(node.path(part));
        fs::create_dir_all(node.path(part).parent().unwrap()).unwrap();
        symlink(outside("empty"), node.path(part)).unwrap();
        let refused = node.run(&["enable"]).exits(1);
        assert!(refused.stderr.contains("symbolic link"), "{part}: {refused}");
        assert_eq!(fs::read_dir(outside("empty")).unwrap().count(), 0, "{part}");
    }
}

#[test]
fn a_sysroot_is_a_directory_that_exists() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    for name in ["typo", "file"] {
        for verb in ["check", "enable", "disable"] {
            let root = dir.path().join(name);
            let output =
                Run::new(coracle_program()).args(["k3s", verb, "--sysroot"]).arg(&root).go().exits(1);
            assert!(output.stderr.contains(name), "{output}");
            assert!(!dir.path().join("typo").exists());
        }
    }
}
