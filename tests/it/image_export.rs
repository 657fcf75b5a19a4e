//! What goes out comes in again as the same image, layers equal to the last bit.
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::path::{Path, PathBuf};

use coracle::digest::Digest;
use coracle::error::Kind;
use coracle::image::export::{Format, Named, Target, export};
use coracle::image::import::{ImportOptions, import, open_source};
use coracle::image::progress::Silent;
use coracle::store::{ImageRecord, Store};

use super::image_fixture::{Image, Layout, Member, Pack, image, tar};
use super::layer_tar;

fn bring(store: &Store, path: &Path) -> Vec<ImageRecord> {
    import(store, open_source(path).unwrap(), &ImportOptions::default(), &Silent).unwrap()
}

fn named(image: &ImageRecord) -> Named {
    Named { image: image.clone(), names: image.names.clone() }
}

/// A layer with all that a tar can have which the tree does not show.
fn odd_layer() -> Vec<u8> {
    let long = "long/".repeat(40) + "name";
    let member = |kind: &str, name: &str| layer_tar::Member::new(kind, name);
    let mut layer = layer_tar::tar(&[
        layer_tar::Member::dir("./"),
        layer_tar::Member::file("./a//b", "data of b").pax("comment", "nobody reads this"),
        layer_tar::Member::file(&long, "x").mode("4755"),
        layer_tar::Member { long_name: Some("gnu/".repeat(40)), ..layer_tar::Member::dir("short") },
        layer_tar::Member::linked("link", "c", "/a/b"),
        layer_tar::Member::linked("symlink", "d", "c"),
        layer_tar::Member { size: Some(9), ..layer_tar::Member::linked("link", "e", "a/b") },
        layer_tar::Member {
            sparse: vec![(4096, 5), (1 << 20, 4)],
            real_size: 2 << 20,
            data: "firstlast".into(),
            ..member("S", "holes")
        },
        layer_tar::Member::file("gone/.wh.x", "whiteouts have no data, but this one"),
        layer_tar::Member::file("empty", ""),
        layer_tar::Member { uid: 1000, gid: 7, device: (1, 3), ..member("char", "null") },
        layer_tar::Member::file("xattr", "y").pax("SCHILY.xattr.user.test", "value"),
    ]);
    // What stands behind the end counts for the digest too.
    layer.extend(b"not zeros, behind the end of the archive");
    layer
}

/// The images of the tests, in a store: one of odd layers, gzipped, and one that shares nothing with it.
fn fixture(dir: &Path) -> (Store, Vec<ImageRecord>) {
    let mut layout = Layout::new();
    let top = tar(&[Member::Dir("etc/", 0o755), Member::File("etc/new", &[3; 70_000])]);
    layout.add(Image {
        layers: vec![odd_layer(), top],
        pack: Pack::Gzip,
        platform: "",
        name: Some("registry.example/odd:1"),
    });
    layout.add(image("other:2"));
    layout.write(&dir.join("layout"));
    let store = Store::open(&dir.join("store")).unwrap();
    let images = bring(&store, &dir.join("layout"));
    (store, images)
}

#[test]
fn every_format_comes_in_again_and_goes_out_the_same() {
    needs!(root);
    let dir = tempfile::tempdir().unwrap();
    let (store, images) = fixture(dir.path());
    let write = |store: &Store, images: &[ImageRecord], name: &str| -> PathBuf {
        let path = dir.path().join(name);
        let (format, target) = match name {
            name if name.ends_with("docker.tar") => (Format::Docker, Target::Archive(path.clone())),
            name if name.ends_with(".tar") => (Format::Oci, Target::Archive(path.clone())),
            _ => (Format::Oci, Target::Dir(path.clone())),
        };
        export(store, images.iter().map(named).collect(), format, target).unwrap();
        path
    };
    for form in ["docker.tar", "oci.tar", "oci"] {
        let first = write(&store, &images, form);
        let second_store = Store::open(&dir.path().join(format!("second-{form}"))).unwrap();
        let mut again = bring(&second_store, &first);
        again.sort_by_key(|image| std::cmp::Reverse(image.names.clone()));
        for (old, new) in images.iter().zip(&again) {
            assert_eq!((&old.id, &old.names, &old.platform), (&new.id, &new.names, &new.platform), "{form}");
            assert_eq!(store.blob(&old.id).unwrap(), second_store.blob(&new.id).unwrap());
            let ids = |store: &Store, image| -> Vec<Digest> {
                store.layers(image).unwrap().iter().map(|layer| layer.diff_id).collect()
            };
            assert_eq!(ids(&store, old), ids(&second_store, new));
        }
        let second = write(&second_store, &again, &format!("second-{form}-out.tar"));
        let third_store = Store::open(&dir.path().join(format!("third-{form}"))).unwrap();
        let third = bring(&third_store, &second);
        let manifests =
            |images: &[ImageRecord]| images.iter().map(|image| image.manifest).collect::<Vec<_>>();
        assert_eq!(
            manifests(&third),
            manifests(&again),
            "{form}: the manifest stays from the first export on"
        );
    }
    let (one, two) = (write(&store, &images, "one.tar"), write(&store, &images, "two.tar"));
    assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap(), "nothing depends on the day");
}

/// A layout with one name for images of two other platforms than this one, and for this one.
pub(super) fn for_three_platforms() -> Layout {
    let mut layout = Layout::new();
    let host = coracle::image::platform::host().to_string();
    for (platform, name) in [("linux/s390x", "big"), (host.as_str(), "own"), ("linux/riscv64", "new")] {
        let descriptor = layout.add(Image { platform, name: None, ..image(name) });
        let annotations = serde_json::json!({"io.containerd.image.name": "localhost/three:1"});
        layout.entries().last_mut().unwrap()["annotations"] = annotations;
        assert!(descriptor["platform"].is_object());
    }
    layout
}

#[test]
fn images_for_every_platform_go_out_and_come_in_under_one_name_and_stay_together() {
    needs!(root);
    let dir = tempfile::tempdir().unwrap();
    for_three_platforms().write(&dir.path().join("layout"));
    let all = ImportOptions { all_platforms: true, ..ImportOptions::default() };
    let open = |name: &str| Store::open(&dir.path().join(name)).unwrap();
    let bring = |store: &Store, name: &str, options: &ImportOptions| {
        import(store, open_source(&dir.path().join(name)).unwrap(), options, &Silent).unwrap()
    };
    let write = |store: &Store, name: &str, target: Target| {
        let (image, _) = store.find_named("localhost/three:1").unwrap();
        let names = image.names.clone();
        export(store, vec![Named { image, names }], Format::Oci, target).unwrap();
        dir.path().join(name)
    };
    let store = open("store");
    assert_eq!(bring(&store, "layout", &all).len(), 3);
    let head = store.find("localhost/three:1").unwrap();
    assert_eq!((head.platform.clone(), head.others.len()), (coracle::image::platform::host(), 2));
    // A name stands for them all: none is without use.
    assert!(store.prune(false).unwrap().is_empty());
    assert_eq!(store.images().unwrap().len(), 3);
    let first = write(&store, "first.tar", Target::Archive(dir.path().join("first.tar")));
    let again = open("again");
    assert_eq!(bring(&again, "first.tar", &all).len(), 3);
    let ids = |store: &Store| -> std::collections::BTreeSet<Digest> {
        store.images().unwrap().iter().map(|image| image.id).collect()
    };
    assert_eq!(ids(&again), ids(&store));
    assert_eq!(again.find("localhost/three:1").unwrap().others.len(), 2);
    let second = write(&again, "second.tar", Target::Archive(dir.path().join("second.tar")));
    assert_eq!(std::fs::read(first).unwrap(), std::fs::read(second).unwrap(), "the same to the last bit");
    // Whoever wants one gets one, from a directory too; and may get the others later.
    write(&store, "third", Target::Dir(dir.path().join("third")));
    let one = open("one");
    let brought = bring(&one, "third", &ImportOptions::default());
    assert_eq!((brought.len(), brought[0].id), (1, head.id));
    bring(&one, "third", &all);
    assert_eq!((one.images().unwrap().len(), one.find("three:1").unwrap().others.len()), (3, 2));
    // What was one image goes as one.
    assert_eq!(one.remove(&["three:1".to_owned()]).unwrap().len(), 4);
    assert!(one.images().unwrap().is_empty());
    // One that has a name of its own stays.
    let big = store.images().unwrap().into_iter().find(|i| i.platform.architecture == "s390x").unwrap();
    store.tag(&big.manifest, &["localhost/mine:1".to_owned()]).unwrap();
    store.remove(&["localhost/three:1".to_owned()]).unwrap();
    assert_eq!(store.images().unwrap().iter().map(|image| image.id).collect::<Vec<_>>(), [big.id]);
}

#[test]
fn the_exported_layer_is_the_tar_it_was() {
    needs!(root);
    let dir = tempfile::tempdir().unwrap();
    let (store, images) = fixture(dir.path());
    let layer = &store.layers(&images[0]).unwrap()[0];
    let mut out = Vec::new();
    store.layer_tar(layer, &mut out).unwrap();
    assert_eq!(out, odd_layer());
    assert_eq!(store.layer_tar_bytes(layer).unwrap(), out.len() as u64);
    let index = store.lower_dir(layer.id).with_file_name("files.idx").metadata().unwrap().len();
    assert!(index < 2500, "the record of 12 members takes {index} bytes");
}

#[test]
fn an_export_that_fails_leaves_nothing_and_what_stands_there_stays() {
    needs!(root);
    let dir = tempfile::tempdir().unwrap();
    let (store, images) = fixture(dir.path());
    let out = dir.path().join("out");
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("image.tar"), "an older export").unwrap();
    std::fs::create_dir(out.join("full")).unwrap();
    std::fs::write(out.join("full/file"), "").unwrap();
    let image = || vec![named(&images[1])];
    let error = export(&store, image(), Format::Oci, Target::Dir(out.join("full"))).unwrap_err();
    assert_eq!(error.kind(), Kind::Exists);
    let name = store.lower_dirs(&images[1])[1].join("etc/name");
    std::fs::write(&name, "changed").unwrap();
    for target in [Target::Archive(out.join("image.tar")), Target::Dir(out.join("new"))] {
        let error = export(&store, image(), Format::Docker, target).unwrap_err();
        assert_eq!(error.kind(), Kind::Corrupt);
        assert!(
            error.chain().contains("etc/name") && error.first_hint().unwrap().contains("repair"),
            "{error:?}"
        );
    }
    assert_eq!(std::fs::read(out.join("image.tar")).unwrap(), b"an older export");
    let mut left: Vec<_> = std::fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, ["full", "image.tar"]);
}

#[test]
fn a_layer_whose_data_was_replaced_is_refused_and_named() {
    needs!(root);
    let dir = tempfile::tempdir().unwrap();
    let layer = tar(&[Member::File("a", b"first"), Member::File("a", b"second")]);
    Layout::of(Image { layers: vec![layer], pack: Pack::Gzip, platform: "", name: Some("odd:1") })
        .write(&dir.path().join("layout"));
    let store = Store::open(&dir.path().join("store")).unwrap();
    let images = bring(&store, &dir.path().join("layout"));
    let target = Target::Archive(dir.path().join("out.tar"));
    let error = export(&store, vec![named(&images[0])], Format::Oci, target).unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert!(!dir.path().join("out.tar").exists());
}
