//! `coracle image import`: what comes in, what is refused, and that a refusal leaves nothing behind.
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Mutex;

use coracle::digest::Digest;
use coracle::error::{Error, Kind, Result};
use coracle::image::import::{ImportOptions, Source, import, open_source};
use coracle::image::platform;
use coracle::image::progress::{Outcome, Progress, Silent};
use coracle::store::{ImageRecord, Store};
use serde_json::json;

use super::image_fixture::{Image, Layout, Member, Pack, docker_archive, image, path_of, sha, tar, tar_of};

/// A store in a directory of its own.
struct Place {
    dir: tempfile::TempDir,
    store: Store,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    Place { dir, store }
}

impl Place {
    fn dir(&self, layout: &Layout) -> Result<Vec<ImageRecord>> {
        self.dir_with(layout, &ImportOptions::default())
    }

    fn dir_with(&self, layout: &Layout, options: &ImportOptions) -> Result<Vec<ImageRecord>> {
        let path = self.dir.path().join("layout");
        let _ = std::fs::remove_dir_all(&path);
        layout.write(&path);
        import(&self.store, open_source(&path)?, options, &Silent)
    }

    fn stream(&self, bytes: &[u8]) -> Result<Vec<ImageRecord>> {
        let source = Source::stream(Cursor::new(bytes.to_vec()), Some("archive".to_owned()));
        import(&self.store, source, &ImportOptions::default(), &Silent)
    }

    /// What the image's merged layers have at `path`.
    fn read(&self, image: &ImageRecord, path: &str) -> Option<String> {
        self.store.lower_dirs(image).iter().find_map(|dir| std::fs::read_to_string(dir.join(path)).ok())
    }

    /// Fails unless the store is empty, on disk too.
    fn assert_untouched(&self) {
        assert!(self.store.images().unwrap().is_empty());
        for dir in ["tmp", "trash", "layers", "blobs/sha256"] {
            let left: Vec<_> = std::fs::read_dir(self.store.root().join(dir)).unwrap().collect();
            assert!(left.is_empty(), "{dir}: {left:?}");
        }
    }

    /// The layout is refused from a directory and as a tar in both orders, and leaves nothing.
    fn refused(&self, layout: &Layout) -> Error {
        let error = self.dir(layout).unwrap_err();
        self.assert_untouched();
        for index_first in [false, true] {
            let streamed = self.stream(&layout.tar(index_first)).unwrap_err();
            assert_eq!(streamed.kind(), error.kind(), "{streamed:?} but {error:?}");
            self.assert_untouched();
        }
        error
    }
}

#[track_caller]
fn assert_says(error: &Error, kind: Kind, words: &str) {
    let chain = error.chain();
    assert_eq!(error.kind(), kind, "{chain}");
    assert!(chain.contains(words), "{words:?} is not in {chain:?}");
}

#[test]
fn every_form_of_one_image_gives_the_same_image() {
    for pack in [Pack::Plain, Pack::Gzip, Pack::Zstd] {
        let layout = Layout::of(Image { pack, ..image("demo:1") });
        let from_dir = place().dir(&layout).unwrap();
        for index_first in [false, true] {
            for outer in [Pack::Plain, Pack::Gzip, Pack::Zstd] {
                let place = place();
                let images = place.stream(&outer.pack(&layout.tar(index_first))).unwrap();
                let [image] = images.as_slice() else { panic!("{images:?}") };
                assert_eq!((image.id, image.manifest), (from_dir[0].id, from_dir[0].manifest));
                assert_eq!(image.names, ["docker.io/library/demo:1"]);
                assert_eq!(place.read(image, "etc/name").unwrap(), "demo:1");
                assert_eq!(place.read(image, "bin/app").unwrap(), "#!/bin/app");
                let config = place.store.config(image).unwrap();
                assert_eq!(config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["/bin/app"]);
                assert_eq!(std::fs::read_dir(place.store.root().join("tmp")).unwrap().count(), 0);
            }
        }
    }
}

#[test]
fn an_archive_of_docker_save_comes_in_with_its_name() {
    let place = place();
    let files = docker_archive(&image("demo"), "demo:2");
    let by_docker = place.stream(&tar_of(&files)).unwrap();
    assert_eq!(by_docker[0].names, ["docker.io/library/demo:2"]);
    assert_eq!(place.read(&by_docker[0], "etc/name").unwrap(), "demo");
    let mut reversed = files.clone();
    reversed.reverse();
    assert_eq!(place.stream(&Pack::Gzip.pack(&tar_of(&reversed))).unwrap(), by_docker);
    let gzipped = place.stream(&tar_of(&docker_archive(&image("demo"), "demo:3"))).unwrap();
    assert_eq!(gzipped[0].id, by_docker[0].id);
    assert_eq!(place.store.images().unwrap().len(), 1, "the layers' own compression is the same");
}

#[test]
fn layers_of_docker_archives_may_be_links_to_others_but_not_out_of_the_archive() {
    let files = docker_archive(&Image { pack: Pack::Plain, ..image("demo") }, "demo:2");
    let layer = files.iter().find(|(path, _)| path.ends_with("layer.tar")).unwrap().0.clone();
    let linked = |target: &str| {
        let mut members: Vec<Member<'_>> = Vec::new();
        for (path, data) in &files {
            if *path == layer {
                members.push(Member::File("real/layer.tar", data));
                members.push(Member::Symlink(path, target));
            } else {
                members.push(Member::File(path, data));
            }
        }
        tar(&members)
    };
    let place = place();
    for target in ["../../etc/passwd", "../../../real/layer.tar"] {
        assert_says(&place.stream(&linked(target)).unwrap_err(), Kind::Invalid, "out of the archive");
    }
    assert_says(&place.stream(&linked("layer.tar")).unwrap_err(), Kind::NotFound, "not in the archive");
    place.assert_untouched();
    let images = place.stream(&linked("../real/layer.tar")).unwrap();
    assert_eq!(place.read(&images[0], "etc/name").unwrap(), "demo");
}

#[test]
fn an_archive_that_is_both_formats_is_read_as_a_layout() {
    let layout = Layout::of(image("demo:1"));
    let manifest = layout.json(&layout.index["manifests"][0]);
    let layers: Vec<String> = manifest["layers"].as_array().unwrap().iter().map(path_of).collect();
    let mut both = layout.clone();
    let docker = json!([{"Config": path_of(&manifest["config"]), "RepoTags": ["demo:1"], "Layers": layers}]);
    both.files.insert("manifest.json".to_owned(), serde_json::to_vec(&docker).unwrap());
    let place = place();
    let images = place.stream(&both.tar(false)).unwrap();
    assert_eq!(images[0].manifest.to_string(), layout.index["manifests"][0]["digest"]);
    let mut docker_only = both.clone();
    docker_only.files.remove("oci-layout");
    let files: Vec<(String, Vec<u8>)> = docker_only.files.into_iter().collect();
    assert_eq!(place.stream(&tar_of(&files)).unwrap()[0].id, images[0].id);
}

/// As K3s packs its air-gap images: `docker save` of many, through `zstd --long=25`.
#[test]
fn an_air_gap_archive_of_k3s_brings_all_its_images_and_again_costs_nothing() {
    let place = place();
    let mut files = Vec::new();
    let mut entries = Vec::new();
    for n in 0..7 {
        let name = format!("rancher/mirrored-{n}:v1");
        let mut one = docker_archive(&Image { pack: Pack::Plain, ..image(&name) }, &name);
        let (_, manifest) = one.pop().unwrap();
        entries.extend(serde_json::from_slice::<Vec<serde_json::Value>>(&manifest).unwrap());
        files.extend(one);
    }
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&entries).unwrap()));
    let mut packed = zstd::Encoder::new(Vec::new(), 3).unwrap();
    packed.window_log(25).unwrap();
    packed.long_distance_matching(true).unwrap();
    std::io::Write::write_all(&mut packed, &tar_of(&files)).unwrap();
    let packed = packed.finish().unwrap();
    let images = place.stream(&packed).unwrap();
    assert_eq!(images.len(), 7);
    for (n, image) in images.iter().enumerate() {
        assert_eq!(image.names, [format!("docker.io/rancher/mirrored-{n}:v1")]);
    }
    assert_eq!(images[0].layers[1], images[6].layers[1], "what they share is there once");
    assert_eq!(place.stream(&packed).unwrap(), images);
}

#[test]
fn several_images_in_one_docker_archive_all_come_in() {
    let mut files = docker_archive(&image("one"), "one:1");
    let second = docker_archive(&image("two"), "");
    let manifest = |files: &[(String, Vec<u8>)]| -> Vec<serde_json::Value> {
        serde_json::from_slice(&files.last().unwrap().1).unwrap()
    };
    let all = [manifest(&files), manifest(&second)].concat();
    let top = all[1]["Layers"][1].as_str().unwrap().split('/').next().unwrap().to_owned();
    files.pop();
    files.extend(second.into_iter().filter(|(path, _)| path != "manifest.json"));
    files.push(("manifest.json".to_owned(), serde_json::to_vec(&all).unwrap()));
    files.push(("repositories".to_owned(), serde_json::to_vec(&json!({"old/two": {"7": top}})).unwrap()));
    let place = place();
    let images = place.stream(&tar_of(&files)).unwrap();
    assert_eq!(images.len(), 2);
    assert_eq!(images[0].names, ["docker.io/library/one:1"]);
    assert_eq!(images[1].names, ["docker.io/old/two:7"], "from the legacy file");
    assert_eq!(images[0].layers[1], images[1].layers[1], "the layer they share is unpacked once");
    let options = ImportOptions { names: vec!["x".into()], ..ImportOptions::default() };
    let again = Source::stream(Cursor::new(tar_of(&files)), None);
    assert_says(&import(&place.store, again, &options, &Silent).unwrap_err(), Kind::Invalid, "2 images");
}

#[test]
fn the_image_for_the_wanted_platform_is_chosen_and_others_are_listed() {
    let mut layout = Layout::new();
    let mut inner = Vec::new();
    for platform in ["linux/arm/v6", "linux/arm/v7", "linux/arm64", "linux/s390x"] {
        let layer = tar(&[Member::File("platform", platform.as_bytes())]);
        inner.push(layout.manifest(&Image { layers: vec![layer], pack: Pack::Gzip, platform, name: None }));
    }
    // What buildkit adds: it has no config of an image.
    let attestation = layout.blob("application/vnd.oci.image.manifest.v1+json", b"{}".to_vec());
    inner.push(attestation);
    inner[4]["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": inner});
    let mut nested = layout.blob(index_type, serde_json::to_vec(&index).unwrap());
    nested["annotations"] = json!({"io.containerd.image.name": "ghcr.io/x/multi:1"});
    layout.entries().push(nested);
    let place = place();
    for (wanted, got) in
        [("linux/arm/v7", "linux/arm/v7"), ("linux/arm/v6", "linux/arm/v6"), ("arm64", "linux/arm64")]
    {
        let platform = Some(platform::parse(wanted).unwrap());
        let images =
            place.dir_with(&layout, &ImportOptions { platform, ..ImportOptions::default() }).unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!(images[0].names, ["ghcr.io/x/multi:1"]);
        assert_eq!(place.read(&images[0], "platform").unwrap(), got);
    }
    let platform = Some(platform::parse("linux/riscv64").unwrap());
    let error = place.dir_with(&layout, &ImportOptions { platform, ..ImportOptions::default() }).unwrap_err();
    assert_says(&error, Kind::NotFound, "linux/arm/v6, linux/arm/v7, linux/arm64, linux/s390x");
    assert!(error.first_hint().unwrap().contains("--platform"));
}

/// Everything that can be wrong with one blob, in every form of the source.
#[test]
fn damaged_and_lying_layers_are_refused_and_leave_nothing() {
    let good = Layout::of(image("demo:1"));
    let place = place();
    let with_layer = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut layout = good.clone();
        change(layout.files.get_mut(&good.layer(1)).unwrap());
        layout
    };
    let flipped = with_layer(&|bytes| *bytes.last_mut().unwrap() ^= 1);
    assert_says(&place.refused(&flipped), Kind::Corrupt, "is damaged: its bytes have digest");
    let cut = with_layer(&|bytes| bytes.truncate(bytes.len() / 2));
    assert_says(&place.refused(&cut), Kind::Corrupt, "bytes");
    let longer = with_layer(&|bytes| bytes.extend(b"more"));
    assert_says(&place.refused(&longer), Kind::Corrupt, "bytes");
    let mut missing = good.clone();
    missing.files.remove(&good.layer(1));
    assert_says(&place.refused(&missing), Kind::NotFound, "is missing");

    let mut size = good.clone();
    size.edit_manifest(|manifest| manifest["layers"][0]["size"] = json!(7));
    assert_says(&place.refused(&size), Kind::Corrupt, "its descriptor says 7");
    let mut diff_id = good.clone();
    diff_id.edit_config(|config| config["rootfs"]["diff_ids"][1] = json!(sha(b"another")));
    assert_says(&place.refused(&diff_id), Kind::Corrupt, "the configuration says");
    let mut fewer = good.clone();
    fewer.edit_config(|config| drop(config["rootfs"]["diff_ids"].as_array_mut().unwrap().pop()));
    assert_says(&place.refused(&fewer), Kind::Corrupt, "2 layers, the configuration 1");
    let mut traversal = good.clone();
    traversal.edit_config(|config| config["rootfs"]["diff_ids"][1] = json!("sha256:../../../etc/passwd"));
    assert_says(&place.refused(&traversal), Kind::Invalid, "digest");
    assert!(place.dir(&good).is_ok());
}

#[test]
fn documents_that_are_not_what_they_should_be_are_refused() {
    let good = Layout::of(image("demo:1"));
    let place = place();
    let descriptor = good.index["manifests"][0].clone();
    let index_type = "application/vnd.oci.image.index.v1+json";

    let mut both = good.clone();
    both.edit_manifest(|manifest| manifest["manifests"] = json!([]));
    assert_says(&place.refused(&both), Kind::Corrupt, "both an index and a manifest");
    let mut lying = good.clone();
    lying.entries()[0]["mediaType"] = json!(index_type);
    assert_says(&place.refused(&lying), Kind::Corrupt, "not of its claimed type");
    let mut changed = good.clone();
    changed.files.get_mut(&path_of(&descriptor)).unwrap().push(b' ');
    assert_says(&place.refused(&changed), Kind::Corrupt, "");
    let mut huge = good.clone();
    huge.entries()[0]["size"] = json!(5 << 20);
    assert_says(&place.refused(&huge), Kind::Invalid, "may have 4194304");
    let mut artifact = good.clone();
    artifact.edit_manifest(|m| m["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json"));
    assert_says(&place.refused(&artifact), Kind::Unsupported, "helm");
    let mut encrypted = good.clone();
    encrypted.edit_manifest(|m| {
        m["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+gzip+encrypted");
    });
    assert_says(&place.refused(&encrypted), Kind::Unsupported, "encrypted");
    let mut schema1 = Layout::new();
    let old = schema1.blob(
        "application/vnd.docker.distribution.manifest.v1+json",
        br#"{"schemaVersion":1,"fsLayers":[]}"#.to_vec(),
    );
    schema1.entries().push(old);
    assert_says(&place.refused(&schema1), Kind::Unsupported, "schema 1");
    let mut foreign = good.clone();
    foreign.edit_manifest(|m| {
        m["layers"][0]["mediaType"] = json!("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip");
        m["layers"][0]["urls"] = json!(["https://example.com/layer"]);
    });
    foreign.files.remove(&good.layer(0));
    assert_says(&place.refused(&foreign), Kind::Unsupported, "https://example.com/layer");
    let mut data = good.clone();
    data.entries()[0]["data"] = json!("bm90IGl0");
    assert_says(&place.refused(&data), Kind::Corrupt, "embedded");
    assert_says(&place.refused(&Layout::new()), Kind::NotFound, "no image");
    let mut version = good.clone();
    version.files.insert("oci-layout".to_owned(), br#"{"imageLayoutVersion":"2.0.0"}"#.to_vec());
    assert_says(&place.refused(&version), Kind::Unsupported, "version");
}

#[test]
fn endless_indexes_are_refused() {
    let place = place();
    let mut layout = Layout::new();
    let index_type = "application/vnd.oci.image.index.v1+json";
    let mut inner = layout.manifest(&image("x"));
    for _ in 0..8 {
        let index = json!({"schemaVersion": 2, "manifests": [inner.clone(), inner]});
        inner = layout.blob(index_type, serde_json::to_vec(&index).unwrap());
    }
    layout.entries().push(inner);
    assert_says(&place.refused(&layout), Kind::Invalid, "nested");

    // A digest cannot be in what it is the digest of, so a cycle has to lie.
    let mut cycle = Layout::new();
    let own = json!({"mediaType": index_type, "digest": sha(b"itself"), "size": 300});
    let index = json!({"schemaVersion": 2, "manifests": [own.clone()]});
    let mut bytes = serde_json::to_vec(&index).unwrap();
    bytes.resize(300, b' ');
    cycle.files.insert(path_of(&own), bytes);
    cycle.entries().push(own);
    assert_says(&place.refused(&cycle), Kind::Corrupt, "is damaged");

    let mut wide = Layout::new();
    let many: Vec<_> = std::iter::repeat_n(wide.manifest(&image("x")), 60).collect();
    let index = json!({"schemaVersion": 2, "manifests": many});
    let inner = wide.blob(index_type, serde_json::to_vec(&index).unwrap());
    let index = json!({"schemaVersion": 2, "manifests": vec![inner; 60]});
    let outer = wide.blob(index_type, serde_json::to_vec(&index).unwrap());
    wide.entries().push(outer);
    assert_says(&place.refused(&wide), Kind::Invalid, "more than 2000 entries");
}

#[test]
fn tricks_with_paths_and_members_of_archives_are_refused() {
    let place = place();
    let good = Layout::of(image("demo:1"));
    let archive = |extra: Member<'_>| {
        let mut bytes = tar(&[extra]);
        bytes.truncate(bytes.len() - 1024);
        [bytes, good.tar(false)].concat()
    };
    let twice = archive(Member::File("index.json", br#"{"schemaVersion":2,"manifests":[]}"#));
    for (bytes, kind, words) in [
        (archive(Member::File("../../evil", b"x")), Kind::Invalid, "out of the archive"),
        (archive(Member::Symlink("blobs/x", "/../../etc/shadow")), Kind::Invalid, "out of the archive"),
        (archive(Member::HardLink("blobs/x", "../etc/shadow")), Kind::Invalid, "out of the archive"),
        (archive(Member::Fifo("blobs/sha256/x")), Kind::Invalid, "neither a file"),
        (twice, Kind::Corrupt, "twice"),
        (tar(&[Member::File("etc/passwd", b"root")]), Kind::Invalid, "neither index.json nor manifest.json"),
        (tar(&[Member::File("repositories", b"{}")]), Kind::Unsupported, "1.10"),
        (b"not a tar at all, but long enough".repeat(30), Kind::Corrupt, "tar"),
        (Vec::new(), Kind::Invalid, "neither index.json"),
    ] {
        assert_says(&place.stream(&bytes).unwrap_err(), kind, words);
        place.assert_untouched();
    }
    let whole = good.tar(true);
    for cut in [100, 700, whole.len() / 2, whole.len() - 1500] {
        place.stream(&whole[..cut]).unwrap_err();
        place.stream(&Pack::Gzip.pack(&whole)[..cut / 20]).unwrap_err();
        place.assert_untouched();
    }
    place.stream(&archive(Member::Dir("./blobs/", 0o755))).unwrap();
}

#[test]
fn links_and_pipes_in_a_layout_directory_are_not_followed_out_of_it() {
    let place = place();
    let good = Layout::of(image("demo:1"));
    let path = place.dir.path().join("tricky");
    good.write(&path);
    let layer = path.join(good.layer(0));
    let outside = place.dir.path().join("outside");
    std::fs::rename(&layer, &outside).unwrap();
    std::os::unix::fs::symlink(&outside, &layer).unwrap();
    let bring = || import(&place.store, open_source(&path).unwrap(), &ImportOptions::default(), &Silent);
    assert_says(&bring().unwrap_err(), Kind::Denied, "out of the layout");
    std::fs::remove_file(&layer).unwrap();
    nix::unistd::mkfifo(&layer, nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_says(&bring().unwrap_err(), Kind::Invalid, "not a regular file");
    place.assert_untouched();
    std::fs::remove_file(&layer).unwrap();
    std::fs::rename(&outside, path.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink("../../elsewhere", &layer).unwrap();
    bring().unwrap();
    let empty = place.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    assert_says(&open_source(&empty).unwrap_err(), Kind::Invalid, "not an OCI image layout");
    assert_says(&open_source(Path::new("/nonexistent")).unwrap_err(), Kind::NotFound, "/nonexistent");
}

#[test]
fn names_come_from_the_source_or_from_the_caller() {
    let place = place();
    let tagged = Layout::of(Image { name: Some("v1"), ..image("x") });
    let found = place.dir(&tagged).unwrap();
    assert_eq!(found[0].names, ["localhost/layout:v1"]);
    assert_eq!(place.store.find("layout:v1").unwrap(), found[0]);
    let options = ImportOptions { names: vec!["mine".into(), "ghcr.io/a/b:2".into()], ..Default::default() };
    let named = place.dir_with(&tagged, &options).unwrap();
    assert_eq!(named[0].names, ["docker.io/library/mine:latest", "ghcr.io/a/b:2", "localhost/layout:v1"]);
    let bad = ImportOptions { names: vec!["Not A Name".into()], ..Default::default() };
    assert_says(&place.dir_with(&tagged, &bad).unwrap_err(), Kind::Invalid, "name");
    let nameless = place.dir(&Layout::of(Image { name: None, ..image("y") })).unwrap();
    assert!(nameless[0].names.is_empty());
    assert_eq!(place.store.find(&nameless[0].id.hex()[..8]).unwrap(), nameless[0]);
    assert_eq!(place.store.find(&nameless[0].manifest.to_string()).unwrap(), nameless[0]);
}

/// Counts what was unpacked and what was there.
#[derive(Default)]
struct Count(Mutex<BTreeMap<Digest, Vec<Outcome>>>);

impl Progress for Count {
    fn begin(&self, _: &Digest, _: u64) {}
    fn advance(&self, _: &Digest, _: u64) {}
    fn end(&self, layer: &Digest, outcome: Outcome) {
        self.0.lock().unwrap().entry(*layer).or_default().push(outcome);
    }
    fn warn(&self, text: &str) {
        assert!(text.is_empty(), "{text}");
    }
}

impl Count {
    fn unpacked(&self) -> usize {
        self.0.lock().unwrap().values().flatten().filter(|outcome| **outcome == Outcome::Unpacked).count()
    }
}

#[test]
fn a_layer_is_unpacked_once_whatever_brings_it_and_how_often() {
    let place = place();
    let layout = Layout::of(image("demo:1"));
    let path = place.dir.path().join("demo");
    layout.write(&path);
    let count = |source: Source| {
        let count = Count::default();
        import(&place.store, source, &ImportOptions::default(), &count).unwrap();
        count.unpacked()
    };
    assert_eq!(count(open_source(&path).unwrap()), 2);
    let journal = || place.store.root().join("journal").metadata().unwrap().len();
    let before = journal();
    assert_eq!(count(open_source(&path).unwrap()), 0);
    assert_eq!(journal(), before, "nothing is written for what is known");
    for index_first in [false, true] {
        assert_eq!(count(Source::stream(Cursor::new(layout.tar(index_first)), None)), 0);
    }
    let repacked = Layout::of(Image { pack: Pack::Zstd, ..image("demo:1") });
    assert_eq!(count(Source::stream(Cursor::new(repacked.tar(true)), None)), 0, "known by its diffID");
    let mut damaged = Layout::of(Image { pack: Pack::Plain, ..image("demo:1") });
    damaged.edit_config(|config| config["author"] = json!("someone"));
    let blob = damaged.layer(0);
    damaged.files.get_mut(&blob).unwrap().push(0);
    assert_says(&place.dir(&damaged).unwrap_err(), Kind::Corrupt, "bytes");
    assert_eq!(std::fs::read_dir(place.store.root().join("layers")).unwrap().count(), 2);
}

#[test]
fn importing_a_known_layout_again_writes_nothing() {
    let place = place();
    let path = place.dir.path().join("demo");
    Layout::of(image("demo:1")).write(&path);
    let root = place.store.root();
    let bring = || {
        let store = Store::open(root).unwrap();
        import(&store, open_source(&path).unwrap(), &ImportOptions::default(), &Silent).unwrap();
        let inode = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().metadata().unwrap().ino();
        let layers: BTreeSet<_> = std::fs::read_dir(root.join("layers")).unwrap().map(inode).collect();
        (std::fs::read(root.join("journal")).unwrap(), layers)
    };
    let first = bring();
    assert!(!first.1.is_empty());
    assert_eq!(bring(), first);
}

#[test]
fn a_layer_that_leaves_directories_out_takes_them_from_its_own_parents() {
    let place = place();
    let top = tar(&[Member::File("tmp/file", b"x")]);
    let on = |mode: u32, name: &'static str| Image {
        layers: vec![tar(&[Member::Dir("tmp/", mode)]), top.clone()],
        pack: Pack::Gzip,
        platform: "",
        name: Some(name),
    };
    let mut layout = Layout::new();
    layout.add(on(0o1777, "sticky:1"));
    layout.add(on(0o700, "private:1"));
    for images in [place.dir(&layout).unwrap(), place.stream(&layout.tar(true)).unwrap()] {
        for (image, mode) in images.iter().zip([0o1777, 0o700]) {
            let upper = &place.store.lower_dirs(image)[0];
            assert_eq!(upper.join("tmp").metadata().unwrap().mode() & 0o7777, mode);
        }
        assert_ne!(images[0].layers[1], images[1].layers[1]);
    }
    let fresh = self::place();
    let images = fresh.stream(&layout.tar(true)).unwrap();
    assert_eq!(fresh.store.lower_dirs(&images[1])[0].join("tmp").metadata().unwrap().mode() & 0o7777, 0o700);
}

#[test]
fn a_layer_that_hides_all_below_leaves_the_others_out_of_the_mount() {
    let place = place();
    let base = tar(&[Member::File("old", b"x")]);
    let top = tar(&[Member::File(".wh..wh..opq", b""), Member::File("new", b"x")]);
    let layout = Layout::of(Image { layers: vec![base, top], pack: Pack::Plain, platform: "", name: None });
    let images = place.dir(&layout).unwrap();
    assert_eq!(images[0].layers.len(), 2);
    assert_eq!(place.store.lower_dirs(&images[0]), [place.store.lower_dir(images[0].layers[1])]);
}

#[test]
fn two_imports_of_one_layout_at_once_unpack_it_once() {
    let place = place();
    let path = place.dir.path().join("demo");
    Layout::of(image("demo:1")).write(&path);
    let root = place.store.root();
    let results: Vec<(ImageRecord, usize)> = std::thread::scope(|scope| {
        let bring = || {
            let count = Count::default();
            let store = Store::open(root).unwrap();
            let images =
                import(&store, open_source(&path).unwrap(), &ImportOptions::default(), &count).unwrap();
            (images[0].clone(), count.unpacked())
        };
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(bring)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(results.iter().all(|(image, _)| *image == results[0].0));
    assert_eq!(results.iter().map(|(_, unpacked)| unpacked).sum::<usize>(), 2);
    assert_eq!(std::fs::read_dir(root.join("layers")).unwrap().count(), 2);
}

#[test]
fn two_streams_with_the_same_layers_commit_them_once() {
    let place = place();
    let archive = Layout::of(image("demo:1")).tar(true);
    let root = place.store.root();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let store = Store::open(root).unwrap();
                let source = Source::stream(Cursor::new(archive.clone()), None);
                import(&store, source, &ImportOptions::default(), &Silent).unwrap();
            });
        }
    });
    assert_eq!(place.store.images().unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(root.join("layers")).unwrap().count(), 2);
    assert_eq!(std::fs::read_dir(root.join("tmp")).unwrap().count(), 0);
}
