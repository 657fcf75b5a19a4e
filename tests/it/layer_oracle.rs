//! Our unpacking beside that of others: GNU tar on a tree with everything ordinary in it, umoci on layers of an image,
//! and overlayfs itself on what whiteouts mean.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test says what went wrong by failing")]

use std::fs;
use std::path::Path;
use std::process::Command;

use coracle::image::digest::Digest;
use coracle::image::layer::{Limits, apply_and_prove};

use crate::layer_tar::{Member, snapshot, tar};

fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").output().is_ok_and(|out| out.status.success());
    let root = rustix::process::geteuid().is_root();
    if !found || !root {
        println!("SKIP: needs root and {program}");
    }
    found && root
}

fn sh(script: &str, dir: &Path) -> String {
    let out = Command::new("sh").arg("-ec").arg(script).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

fn unpack(stream: &[u8], into: &Path) {
    fs::create_dir(into).unwrap();
    apply_and_prove(stream, into, &into.with_extension("idx"), &Limits::default()).unwrap();
}

/// Everything an ordinary image has, and the odd things GNU tar can write.
const TREE: &str = r#"
    mkdir -p src/usr/bin src/tmp src/etc/deep/er src/dev src/empty
    chmod 1777 src/tmp
    for n in 1 2 3 4 5 6 7 8 9; do seq $((n * 997)) > src/usr/bin/tool$n; done
    chmod 4755 src/usr/bin/tool1; chmod 2711 src/usr/bin/tool2; chmod 0 src/usr/bin/tool3
    ln src/usr/bin/tool4 src/etc/deep/hard
    ln -s ../usr/bin/tool5 src/etc/link; ln -s /nowhere src/etc/dangling; ln src/etc/dangling src/etc/second
    ln -s "$(printf 't%.0s' $(seq 300))" src/etc/long-target
    mkdir -p "src/$(printf 'd%.0s' $(seq 90))/$(printf 'e%.0s' $(seq 120))"
    echo x > "src/$(printf 'd%.0s' $(seq 90))/$(printf 'f%.0s' $(seq 250))"
    printf 'x' > "$(printf 'src/etc/bytes\377\200\nnew line')"
    mknod src/dev/null c 1 3; mknod src/dev/loop7 b 7 300; mkfifo src/dev/pipe
    chown 1000:1001 src/etc/deep/er src/usr/bin/tool6; chown -h 3000000:3000001 src/etc/link src/usr/bin/tool7
    truncate -s 5M src/holes; printf 'in the middle' | dd of=src/holes bs=1 seek=3000000 conv=notrunc status=none
    touch -d '1960-05-05 05:05:05.25' src/usr/bin/tool8; touch -d '2200-01-01' src/usr/bin/tool9
    find src -depth -type d -exec touch -d '2020-02-02 02:02:02.123456789' {} +
"#;

#[test]
fn ordinary_trees_come_out_as_gnu_tar_unpacks_them_in_every_format() {
    if !has("tar") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    sh(TREE, dir.path());
    let formats = [
        "--format=pax",
        "--format=gnu",
        "--format=gnu --sparse",
        "--format=pax --sparse --sparse-version=0.0",
        "--format=pax --sparse --sparse-version=0.1",
        "--format=pax --sparse --sparse-version=1.0",
    ];
    for (at, format) in formats.iter().enumerate() {
        sh(&format!("tar -C src {format} --xattrs --numeric-owner -cf {at}.tar ."), dir.path());
        let unpacked = "--xattrs --xattrs-include='*' --numeric-owner -p --atime-preserve";
        sh(&format!("mkdir theirs{at}; tar -C theirs{at} {unpacked} -xf {at}.tar"), dir.path());
        let stream = fs::read(dir.path().join(format!("{at}.tar"))).unwrap();
        let ours = dir.path().join(format!("ours{at}"));
        unpack(&stream, &ours);
        let (ours, theirs) = (snapshot(&ours), snapshot(&dir.path().join(format!("theirs{at}"))));
        assert!(theirs.len() > 30);
        for (path, want) in &theirs {
            assert_eq!(ours.get(path), Some(want), "{format}: {}", path.escape_ascii());
        }
        assert_eq!(ours.len(), theirs.len());
    }
    let blocks =
        |path: &str| std::os::unix::fs::MetadataExt::blocks(&dir.path().join(path).metadata().unwrap());
    assert!(blocks("ours5/holes") < 100, "the holes were written out");
}

/// Layers over each other as umoci merges them into a root file system, and overlayfs ours.
#[test]
fn layers_mounted_over_each_other_look_as_umoci_unpacks_them() {
    if !has("umoci") {
        return;
    }
    let below = [
        Member::dir("gone"),
        Member::file("gone/a", "1"),
        Member::dir("new"),
        Member::file("new/old", "1"),
        Member::dir("shut"),
        Member::dir("shut/in"),
        Member::file("shut/in/old", "1"),
        Member::file("shut/old", "1"),
        Member::dir("open").mode("700"),
        Member::file("open/kept", "1"),
        Member::file("open/gone", "1"),
        Member::dir("was"),
        Member::file("was/dir", "1"),
        Member::linked("symlink", "turned", "open"),
    ];
    let above = [
        Member::file(".wh.gone", ""),
        Member::file(".wh.new", ""),
        Member::dir("new"),
        Member::file("new/here", "2"),
        Member::file("shut/.wh..wh..opq", ""),
        Member::dir("shut").mode("711"),
        Member::dir("shut/in"),
        Member::file("shut/in/new", "2"),
        Member::dir("open").mode("1777"),
        Member::file("open/.wh.gone", ""),
        Member::file("open/more", "2"),
        Member::file("was", "a file now"),
        Member::dir("turned"),
        Member::file("turned/x", "2"),
    ];
    let root = Member::dir("./");
    let layers =
        [[std::slice::from_ref(&root), &below].concat(), [std::slice::from_ref(&root), &above].concat()]
            .map(|layer| tar(&layer));
    let dir = tempfile::tempdir().unwrap();
    write_image(&layers, &dir.path().join("image"));
    sh("umoci unpack --image image:t bundle", dir.path());
    unpack(&layers[0], &dir.path().join("low"));
    unpack(&layers[1], &dir.path().join("high"));
    let script = r#"mkdir merged; unshare -m sh -ec '
        mount -t overlay overlay -o ro,lowerdir=high:low merged; tar -C merged --xattrs --numeric-owner -cf - .' > merged.tar
        mkdir seen; tar -C seen --numeric-owner -p -xf merged.tar"#;
    sh(script, dir.path());
    let ours = snapshot(&dir.path().join("seen"));
    let theirs = snapshot(&dir.path().join("bundle/rootfs"));
    assert!(ours.contains_key(&b"new/here"[..]) && !ours.contains_key(&b"new/old"[..]));
    assert_eq!(without_dir_times(ours), without_dir_times(theirs));
}

/// umoci lets the times of directories change when it deletes something in them.
fn without_dir_times(tree: std::collections::BTreeMap<Vec<u8>, String>) -> Vec<(String, String)> {
    let short = |what: String| match what.strip_prefix("dir ").and_then(|rest| rest.split_once(" @")) {
        Some((rest, _)) => format!("dir {rest}"),
        None => what,
    };
    tree.into_iter().map(|(path, what)| (String::from_utf8(path).unwrap(), short(what))).collect()
}

/// An OCI image layout with these layers, tagged `t`.
fn write_image(layers: &[Vec<u8>], at: &Path) {
    fs::create_dir_all(at.join("blobs/sha256")).unwrap();
    let blob = |kind: &str, data: &[u8]| {
        let digest = Digest::of(data);
        fs::write(at.join("blobs/sha256").join(digest.hex()), data).unwrap();
        format!(
            r#"{{"mediaType":"application/vnd.oci.image.{kind}","digest":"{digest}","size":{}}}"#,
            data.len()
        )
    };
    let diff_ids: Vec<String> = layers.iter().map(|layer| format!("\"{}\"", Digest::of(layer))).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let config = blob("config.v1+json", config.as_bytes());
    let layers: Vec<String> = layers.iter().map(|layer| blob("layer.v1.tar", layer)).collect();
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[{}]}}"#,
        layers.join(",")
    );
    let manifest = blob("manifest.v1+json", manifest.as_bytes());
    let tagged = manifest.replacen('{', r#"{"annotations":{"org.opencontainers.image.ref.name":"t"},"#, 1);
    fs::write(at.join("index.json"), format!(r#"{{"schemaVersion":2,"manifests":[{tagged}]}}"#)).unwrap();
    fs::write(at.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}
