//! Flash that forgets: whatever changes in a store is found, and repair brings in just what is damaged.
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use coracle::error::Kind;
use coracle::image::import::{ImportOptions, import, open_source};
use coracle::image::progress::Silent;
use coracle::image::repair::{FromPath, FromRegistry, repair};
use coracle::store::{Finding, ImageRecord, LayerRecord, Store};

use super::image_fixture::{Image, Layout, Member, Pack, tar};
use super::support::registry::TestRegistry;

/// Two layers with one of each kind of thing.
fn sample(name: &str) -> Layout {
    let base = tar(&[
        Member::Dir("etc/", 0o750),
        Member::File("etc/name", b"sample"),
        Member::File("etc/empty", b""),
        Member::Symlink("etc/link", "name"),
        Member::HardLink("etc/same", "etc/name"),
        Member::Fifo("etc/pipe"),
    ]);
    let top = tar(&[
        Member::Dir("etc/", 0o750),
        Member::File("etc/.wh.empty", b""),
        Member::Dir("opt/", 0o755),
        Member::File("opt/.wh..wh..opq", b""),
        Member::File("opt/app", &[7; 100_000]),
    ]);
    Layout::of(Image { layers: vec![base, top], pack: Pack::Gzip, platform: "", name: Some(name) })
}

struct Fixture {
    dir: tempfile::TempDir,
    store: Store,
    image: ImageRecord,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        sample("demo:1").write(&dir.path().join("layout"));
        let store = Store::open(&dir.path().join("store")).unwrap();
        let image = bring(&store, &dir.path().join("layout"));
        Self { dir, store, image }
    }

    fn layout(&self) -> PathBuf {
        self.dir.path().join("layout")
    }

    fn layer(&self, n: usize) -> PathBuf {
        let image = self.store.find("demo:1").unwrap();
        self.store.lower_dir(image.layers[n])
    }

    fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        let images = self.store.images().unwrap();
        self.store.verify(&images, &mut |finding| found.push(finding.clone())).unwrap();
        found
    }

    /// Repairs, and checks that only the layer that was damaged, if one was, is a new one.
    fn repair(&self, damaged: Option<usize>, what: &str) {
        let before = self.store.find("demo:1").unwrap().layers;
        let from = FromPath(self.layout());
        let images = self.store.images().unwrap();
        let repaired = repair(&self.store, &images, &from, &Silent).unwrap();
        assert!(repaired.left.is_empty(), "{what}: {:?}", repaired.left);
        let after = self.store.find("demo:1").unwrap();
        for (n, (old, new)) in before.iter().zip(&after.layers).enumerate() {
            assert_eq!(old != new, damaged == Some(n), "{what}: layer {n} was {old} and is {new}");
        }
        assert_eq!((&after.names, after.manifest), (&self.image.names, self.image.manifest), "{what}");
        assert_eq!(self.findings(), [], "{what}");
        let layers = std::fs::read_dir(self.store.root().join("layers")).unwrap().count();
        assert_eq!(layers, 2, "{what}: the damaged layer is gone");
    }
}

fn bring(store: &Store, path: &Path) -> ImageRecord {
    import(store, open_source(path).unwrap(), &ImportOptions::default(), &Silent).unwrap().remove(0)
}

/// Changes what only its content shows: times stay.
fn flip(path: &Path, at: usize) {
    let before = path.metadata().unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 4;
    std::fs::write(path, bytes).unwrap();
    let file = std::fs::File::options().write(true).open(path).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
}

#[test]
fn a_flipped_bit_in_any_file_of_the_store_is_found_and_repaired() {
    needs!(root);
    let fixture = Fixture::new();
    assert_eq!(fixture.findings(), []);
    for (n, path, shown) in [
        (0, "fs/etc/name", "etc/name"),
        (1, "fs/opt/app", "opt/app"),
        (0, "files.idx", "files.idx"),
        (1, "files.idx", "files.idx"),
    ] {
        let file = fixture.layer(n).parent().unwrap().join(path);
        let size = usize::try_from(file.metadata().unwrap().len()).unwrap();
        for at in [0, size / 2, size - 1] {
            let file = fixture.layer(n).parent().unwrap().join(path);
            flip(&file, at);
            let found = fixture.findings();
            let layer = fixture.store.layers(&fixture.store.find("demo:1").unwrap()).unwrap()[n].diff_id;
            assert!(
                found.iter().any(|finding| finding.path == shown
                    && finding.layer == Some(layer)
                    && finding.images == ["docker.io/library/demo:1"]),
                "{path} at {at}: {found:?}"
            );
            fixture.repair(Some(n), path);
        }
    }
    for digest in [fixture.image.id, fixture.image.manifest] {
        let path = format!("blobs/sha256/{}", digest.hex());
        flip(&fixture.store.root().join(&path), 20);
        let found = fixture.findings();
        assert!(found.iter().any(|finding| finding.path == path), "{found:?}");
        fixture.repair(None, &path);
    }
    flip(&fixture.store.root().join("journal"), 30);
    let found = fixture.findings();
    assert!(found.iter().any(|finding| finding.path == "journal"), "{found:?}");
    fixture.repair(None, "journal");
}

#[test]
fn every_other_change_of_a_layer_is_found_and_repaired() {
    needs!(root);
    let fixture = Fixture::new();
    type Change = fn(&Path);
    let changes: BTreeMap<&str, (usize, &str, Change)> = BTreeMap::from([
        ("mode", (0, "etc/name", (|etc| set_mode(&etc.join("etc/name"), 0o600)) as Change)),
        ("mode of a directory", (0, "etc", |root| set_mode(&root.join("etc"), 0o777))),
        ("mode of the root", (0, "", |root| set_mode(root, 0o700))),
        (
            "owner",
            (0, "etc/name", |root| std::os::unix::fs::chown(root.join("etc/name"), Some(5), None).unwrap()),
        ),
        ("time", (0, "etc/empty", |root| touch(&root.join("etc/empty")))),
        ("cut short", (1, "opt/app", |root| truncate(&root.join("opt/app"), 10))),
        ("zero bytes", (1, "opt/app", |root| truncate(&root.join("opt/app"), 0))),
        ("missing", (0, "etc/empty", |root| std::fs::remove_file(root.join("etc/empty")).unwrap())),
        ("link", (0, "etc/link", |root| relink(&root.join("etc/link"), "elsewhere"))),
        ("hard link", (0, "etc/same", |root| copy_over(&root.join("etc/same")))),
        ("type", (0, "etc/pipe", |root| relink(&root.join("etc/pipe"), "x"))),
        ("whiteout", (1, "etc/empty", |root| std::fs::remove_file(root.join("etc/empty")).unwrap())),
        ("opaque", (1, "opt", |root| run("setfattr", &["-x", "trusted.overlay.opaque"], &root.join("opt")))),
        ("more than there was", (0, "etc", |root| std::fs::write(root.join("etc/more"), "x").unwrap())),
        ("record", (0, "files.idx", |root| std::fs::remove_file(root.with_file_name("files.idx")).unwrap())),
        ("all", (1, "", |root| std::fs::remove_dir_all(root).unwrap())),
    ]);
    for (what, (n, shown, change)) in changes {
        if what == "opaque" && Command::new("setfattr").arg("--version").output().is_err() {
            continue;
        }
        change(&fixture.layer(n));
        let found = fixture.findings();
        assert!(found.iter().any(|finding| finding.path == shown), "{what}: {found:?}");
        fixture.repair(Some(n), what);
    }
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn touch(path: &Path) {
    std::fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(std::time::SystemTime::now())
        .unwrap();
}

fn truncate(path: &Path, size: u64) {
    std::fs::File::options().write(true).open(path).unwrap().set_len(size).unwrap();
}

fn relink(path: &Path, target: &str) {
    std::fs::remove_file(path).unwrap();
    symlink(target, path).unwrap();
}

fn copy_over(path: &Path) {
    let bytes = std::fs::read(path).unwrap();
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn run(tool: &str, args: &[&str], path: &Path) {
    assert!(Command::new(tool).args(args).arg(path).status().unwrap().success());
}

#[test]
fn the_next_import_heals_what_is_damaged_and_containers_do_not_get_it_before() {
    needs!(root);
    let fixture = Fixture::new();
    let (base, top) = (fixture.image.layers[0], fixture.image.layers[1]);
    flip(&fixture.layer(0).join("etc/name"), 2);
    assert_eq!(fixture.findings().len(), 1);
    let error = fixture.store.hold(&fixture.image, "web").unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.first_hint().unwrap().contains("image repair docker.io/library/demo:1"), "{error:?}");
    let healed = bring(&fixture.store, &fixture.layout());
    assert_ne!(healed.layers[0], base);
    assert_eq!(healed.layers[1], top);
    assert_eq!(fixture.findings(), []);
    fixture.store.hold(&healed, "web").unwrap();
}

#[test]
fn a_layer_that_two_images_share_is_healed_for_both() {
    needs!(root);
    let fixture = Fixture::new();
    let mut other = sample("other:1");
    other.edit_config(|config| config["config"]["Env"] = serde_json::json!(["B=c"]));
    other.write(&fixture.dir.path().join("other"));
    let second = bring(&fixture.store, &fixture.dir.path().join("other"));
    assert_eq!(second.layers, fixture.image.layers);
    truncate(&fixture.layer(1).join("opt/app"), 3);
    assert_eq!(fixture.findings().len(), 1, "a layer is looked at once");
    let healed = bring(&fixture.store, &fixture.dir.path().join("other"));
    assert_eq!(fixture.store.find("demo:1").unwrap().layers, healed.layers);
    assert_eq!(fixture.findings(), []);
}

#[test]
fn a_damaged_image_without_a_source_says_what_to_do() {
    needs!(root);
    let fixture = Fixture::new();
    truncate(&fixture.layer(1).join("opt/app"), 3);
    let images = fixture.store.images().unwrap();
    let error = repair(&fixture.store, &images, &FromRegistry::default(), &Silent).unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.first_hint().unwrap().contains("--from"), "{error:?}");
    let nothing = fixture.dir.path().join("nothing");
    let mut other = sample("other:1");
    other.edit_config(|config| config["config"]["Env"] = serde_json::json!(["B=c"]));
    other.write(&nothing);
    let repaired = repair(&fixture.store, &images, &FromPath(nothing), &Silent).unwrap();
    assert_eq!(repaired.left, repaired.found, "an archive without the image heals nothing");
    assert_eq!(fixture.store.images().unwrap().len(), 1, "and brings nothing in");
    assert!(fixture.store.root().metadata().unwrap().mode() & 0o77 == 0);
}

/// A member that a later one of the same layer replaces, which the format forbids and engines let pass.
#[test]
fn a_layer_that_replaces_its_own_members_is_verified_as_it_became() {
    needs!(root);
    let layer = tar(&[
        Member::File("a", b"first"),
        Member::HardLink("b", "a"),
        Member::File("a", b"second"),
        Member::File(".wh.c", b""),
        Member::File("c", b"now it is there"),
        Member::File("d", b"x"),
        Member::Dir("d/", 0o755),
        Member::File("d/e", b"y"),
        Member::File("d/.wh..wh..opq", b""),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let layout = Image { layers: vec![layer], pack: Pack::Plain, platform: "", name: Some("odd:1") };
    Layout::of(layout).write(&dir.path().join("layout"));
    let store = Store::open(&dir.path().join("store")).unwrap();
    let image = bring(&store, &dir.path().join("layout"));
    let verdict = store.verify(std::slice::from_ref(&image), &mut |finding| println!("{finding:?}")).unwrap();
    assert_eq!(verdict.findings, 0);
    flip(&store.lower_dirs(&image)[0].join("a"), 0);
    assert_eq!(store.verify(&[image], &mut |_| {}).unwrap().findings, 1);
}

#[test]
fn a_pull_and_a_repair_get_just_the_damaged_layer_from_the_registry() {
    needs!(root);
    let (place, registry) = (super::pull_fixture::place(), TestRegistry::start());
    registry.small("app:1");
    let name = registry.name("app:1");
    let image = place.pulled(&name);
    let damage = || {
        let now = place.store.find(&name).unwrap();
        let base = place.store.lower_dir(now.layers[0]);
        truncate(&base.join("etc/name"), 1);
        assert_eq!(place.store.verify(std::slice::from_ref(&now), &mut |_| {}).unwrap().damaged_layers, 1);
        registry.forget();
    };
    damage();
    let pulled = place.pulled(&name);
    assert_ne!(pulled.layers[0], image.layers[0]);
    assert_eq!(pulled.layers[1], image.layers[1]);
    assert_eq!(registry.count("/blobs/sha256:"), 2, "a configuration and a layer: {:?}", registry.seen());
    damage();
    let from = FromRegistry(place.options.clone());
    let repaired = repair(&place.store, &place.store.images().unwrap(), &from, &Silent).unwrap();
    assert!(!repaired.found.is_empty() && repaired.left.is_empty(), "{repaired:?}");
    assert_eq!(registry.count("/blobs/sha256:"), 2, "{:?}", registry.seen());
    let healed = place.store.find(&name).unwrap();
    assert_eq!((healed.id, healed.layers[1], &healed.names), (image.id, image.layers[1], &image.names));
    assert_eq!(place.read(&healed, "etc/name").unwrap(), b"small");
}

#[test]
fn a_lost_journal_is_rebuilt_from_layers_and_documents() {
    needs!(root);
    for lost in [None, Some(&b""[..]), Some(&[0; 4096]), Some(b"cjr2 garbage"), Some(&[0xff; 30_000])] {
        let Fixture { dir, store, image } = Fixture::new();
        let (root, layout) = (store.root().to_owned(), dir.path().join("layout"));
        let layers = store.layers(&image).unwrap();
        drop(store);
        let journal = root.join("journal");
        match lost {
            None => std::fs::remove_file(&journal).unwrap(),
            Some(bytes) => std::fs::write(&journal, bytes).unwrap(),
        }
        for verb in [
            &["image", "ls"][..],
            &["image", "gc"],
            &["image", "df"],
            &["image", "verify"],
            &["image", "prune", "-a", "-f"],
            &["image", "rm", "demo:1"],
            &["image", "import", layout.to_str().unwrap()],
            &["launch", "--pull", "never", "demo:1"],
        ] {
            let output = coracle(&root, verb);
            assert!(!output.status.success(), "{verb:?}: {output:?}");
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(text.contains("journal") && text.contains("coracle image repair"), "{verb:?}: {text}");
        }
        let output = coracle(&root, &["image", "repair"]);
        assert!(output.status.success(), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stdout).contains(&image.id.to_string()), "{output:?}");
        let store = Store::open(&root).unwrap();
        let rebuilt = store.images().unwrap().remove(0);
        assert_eq!((rebuilt.manifest, &rebuilt.layers), (image.manifest, &image.layers));
        assert_eq!((rebuilt.size_bytes, rebuilt.hidden), (image.size_bytes, image.hidden));
        let fields =
            |layer: &LayerRecord| (layer.diff_id, layer.size_bytes, layer.entries, layer.blobs.clone());
        let again = store.layers(&rebuilt).unwrap();
        assert!(again.iter().map(fields).eq(layers.iter().map(fields)), "{again:?} is not {layers:?}");
        store.gc().unwrap();
        let named = bring(&store, &layout);
        assert_eq!((named.names, named.layers), (image.names, image.layers), "nothing is unpacked again");
    }
}

fn coracle(store: &Path, args: &[&str]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_coracle")).arg("--store").arg(store).args(args).output().unwrap()
}
