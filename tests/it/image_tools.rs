//! Images written by other tools come in, and what comes out of the store is what these tools unpack.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "the parts that tests share fail as tests do")]

use std::path::Path;
use std::process::Command;

use coracle::image::export::{Format, Named, Target, export};
use coracle::image::import::{ImportOptions, import, open_source};
use coracle::image::progress::Silent;
use coracle::store::{ImageRecord, Store};

use super::image_fixture::{Image, Layout, Member, Pack, tar};

fn has(tool: &str) -> bool {
    let found = Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success());
    if !found {
        println!("SKIP: {tool} is not installed");
    }
    found
}

fn run(tool: &str, args: &[&str], dir: &Path) {
    let output = Command::new(tool).args(args).current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{tool} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn bring(store: &Store, path: &Path) -> ImageRecord {
    import(store, open_source(path).unwrap(), &ImportOptions::default(), &Silent).unwrap().remove(0)
}

fn sample() -> Layout {
    let base = tar(&[
        Member::Dir("etc/", 0o755),
        Member::File("etc/gone", b"x"),
        Member::File("etc/name", b"sample"),
        Member::Symlink("etc/link", "name"),
        Member::HardLink("etc/same", "etc/name"),
    ]);
    let top =
        tar(&[Member::Dir("etc/", 0o755), Member::File("etc/.wh.gone", b""), Member::File("new", b"y")]);
    Layout::of(Image { layers: vec![base, top], pack: Pack::Gzip, platform: "", name: Some("v1") })
}

#[test]
fn whatever_skopeo_writes_is_the_same_image() {
    if !has("skopeo") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    sample().write(&dir.path().join("layout"));
    let first = bring(&store, &dir.path().join("layout"));
    for (target, file) in [
        ("oci:copy:v1", "copy"),
        ("oci-archive:copy.tar:demo:1", "copy.tar"),
        ("docker-archive:docker.tar:demo:2", "docker.tar"),
    ] {
        run("skopeo", &["copy", "-q", "--insecure-policy", "oci:layout:v1", target], dir.path());
        let image = bring(&store, &dir.path().join(file));
        assert_eq!(image.layers, first.layers, "{target}");
    }
    let zstd =
        ["copy", "-q", "--insecure-policy", "--dest-compress-format", "zstd", "oci:layout:v1", "oci:zstd:v1"];
    run("skopeo", &zstd, dir.path());
    assert_eq!(bring(&store, &dir.path().join("zstd")).layers, first.layers);
    let demo = store.find("demo:2").unwrap();
    assert_eq!(demo.id, first.id);
    assert_eq!(store.find("demo:1").unwrap().layers, first.layers);
    assert_eq!(store.find("localhost/copy:v1").unwrap().manifest, first.manifest);
}

#[test]
fn the_mounted_layers_are_what_umoci_unpacks() {
    if !has("umoci") || !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    sample().write(&layout);
    run("umoci", &["unpack", "--image", "layout:v1", "bundle"], dir.path());
    let root = dir.path().join("bundle/rootfs");
    for path in ["usr/bin", "var/tmp"] {
        std::fs::create_dir_all(root.join(path)).unwrap();
    }
    std::fs::write(root.join("usr/bin/tool"), "#!/bin/sh\n").unwrap();
    std::fs::remove_file(root.join("etc/link")).unwrap();
    run("chown", &["123:456", "usr/bin", "usr/bin/tool"], &root);
    run("chmod", &["4755", "usr/bin/tool"], &root);
    run("chmod", &["1777", "var/tmp"], &root);
    run("umoci", &["repack", "--image", "layout:v1", "bundle"], dir.path());
    run("rm", &["-rf", "bundle"], dir.path());
    run("umoci", &["unpack", "--image", "layout:v1", "bundle"], dir.path());

    let store = Store::open(&dir.path().join("store")).unwrap();
    let image = bring(&store, &layout);
    let lowers: Vec<String> =
        store.lower_dirs(&image).iter().map(|path| path.to_str().unwrap().to_owned()).collect();
    let script = "set -e; mkdir m; mount -t overlay -o lowerdir=$LOWER none m; \
        list() { cd $1; find . | LC_ALL=C sort | xargs stat -c '%n %a %u %g %F %s %Y'; \
        find . -type f | LC_ALL=C sort | xargs sha256sum; readlink $(find . -type l) || true; cd ..; }; \
        list m | grep -v '^\\. ' > ours; cd bundle; list rootfs | grep -v '^\\. ' > ../theirs; cd ..; \
        sed -E -i '/ directory /s/ directory [0-9]+/ directory/' ours theirs; diff ours theirs";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .env("LOWER", lowers.join(":"))
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let ours = std::fs::read_to_string(dir.path().join("ours")).unwrap();
    assert!(ours.contains("./usr/bin/tool 4755"), "{ours}");
    assert!(!ours.contains("./etc/link") && !ours.contains("./etc/gone"), "{ours}");
}

/// The image of [`sample`] in a store, and exported to `oci.tar`, `docker.tar` and the directory `oci`.
fn exported(dir: &Path) -> (Store, ImageRecord) {
    sample().write(&dir.join("layout"));
    let store = Store::open(&dir.join("store")).unwrap();
    let image = bring(&store, &dir.join("layout"));
    for (format, target) in [
        (Format::Oci, Target::Archive(dir.join("oci.tar"))),
        (Format::Docker, Target::Archive(dir.join("docker.tar"))),
        (Format::Oci, Target::Dir(dir.join("oci"))),
    ] {
        let named = Named { image: image.clone(), names: image.names.clone() };
        export(&store, vec![named], format, target).unwrap();
    }
    (store, image)
}

#[test]
fn skopeo_reads_every_format_that_is_exported() {
    needs!(root, skopeo);
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = exported(dir.path());
    for source in ["oci-archive:oci.tar", "docker-archive:docker.tar", "oci:oci:v1", "oci-archive:docker.tar"]
    {
        let copy = format!("oci:copy-{}:v1", source.replace([':', '.'], "-"));
        // skopeo hashes every blob and every layer as it reads it.
        run("skopeo", &["copy", "-q", "--insecure-policy", source, &copy], dir.path());
        let path = copy.split(':').nth(1).unwrap();
        let again = bring(&store, &dir.path().join(path));
        assert_eq!(again.layers, image.layers, "{source}");
        // From docker's format skopeo writes another configuration.
        assert!(again.id == image.id || source == "docker-archive:docker.tar", "{source}");
    }
}

#[test]
fn umoci_unpacks_what_is_exported_to_the_same_tree() {
    needs!(root, umoci);
    let dir = tempfile::tempdir().unwrap();
    exported(dir.path());
    run("umoci", &["unpack", "--image", "layout:v1", "before"], dir.path());
    run("umoci", &["unpack", "--image", "oci:v1", "after"], dir.path());
    let script = "for tree in before after; do (cd $tree/rootfs; find . | LC_ALL=C sort | xargs stat -c '%n %f %u %g %s %Y %h'; \
        find . -type f | LC_ALL=C sort | xargs sha256sum) > $tree.list; done; diff before.list after.list";
    run("sh", &["-ec", script], dir.path());
}

#[test]
fn podman_and_buildah_take_what_is_exported_and_give_it_back() {
    needs!(root, podman, buildah);
    let dir = tempfile::tempdir().unwrap();
    let (store, image) = exported(dir.path());
    let storage = ["--root", "ps", "--runroot", "pr", "--storage-driver", "vfs"];
    let podman = |args: &[&str]| run("podman", &[&storage[..], args].concat(), dir.path());
    podman(&["load", "-q", "-i", "docker.tar"]);
    podman(&["load", "-q", "-i", "oci.tar"]);
    podman(&["save", "-q", "--format", "docker-archive", "-o", "from-podman.tar", "localhost/layout:v1"]);
    podman(&["save", "-q", "--format", "oci-archive", "-o", "from-podman-oci.tar", "localhost/layout:v1"]);
    for archive in ["from-podman.tar", "from-podman-oci.tar"] {
        let again = bring(&store, &dir.path().join(archive));
        assert_eq!((again.id, again.layers), (image.id, image.layers.clone()), "{archive}");
    }
    let buildah = |args: &[&str]| run("buildah", &[&storage[..], args].concat(), dir.path());
    buildah(&["from", "-q", "--name", "work", "oci-archive:oci.tar"]);
    buildah(&["config", "--env", "BUILT=here", "work"]);
    buildah(&["commit", "-q", "work", "oci:built:v2"]);
    let built = bring(&store, &dir.path().join("built"));
    assert_eq!(built.layers[..2], image.layers[..], "the base is shared");
}
