use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use super::*;

mod lost;

/// A sample image: one layer with one file, whose content also gives its diffID.
struct Sample {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: &'static str,
}

fn sample(name: &str, layer: &'static str) -> Sample {
    let config = format!(
        r#"{{"architecture":"arm","os":"linux","rootfs":{{"type":"layers","diff_ids":["{name}"]}}}}"#
    );
    Sample { manifest: format!("manifest of {name}").into(), config: config.into(), layer }
}

impl Sample {
    fn manifest(&self) -> Digest {
        Digest::of(&self.manifest)
    }

    fn import(&self, store: &Store, names: &[&str]) -> Result<ImageRecord> {
        let txn = store.begin()?;
        let diff_id = Digest::of(self.layer.as_bytes());
        let (mut new, mut pick) = (Vec::new(), Pick::New(0));
        match store.layer_for(&diff_id, &diff_id)? {
            Some(layer) if txn.keep(layer.id)? => pick = Pick::Present(layer.id),
            _ => {
                let staged = txn.stage_layer()?;
                std::fs::write(staged.path().join("file"), self.layer).unwrap();
                std::fs::write(staged.index_path(), "").unwrap();
                new.push(NewLayer {
                    staged,
                    diff_id,
                    chain: None,
                    hides_all_lower: false,
                    size_bytes: 5,
                    entries: 1,
                });
            }
        }
        txn.stage_blob(&self.manifest(), &self.manifest)?;
        txn.stage_blob(&Digest::of(&self.config), &self.config)?;
        let image = NewImage {
            id: Digest::of(&self.config),
            manifest: self.manifest(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            repo_digests: vec![],
            platform: Platform { os: "linux".into(), architecture: "arm".into(), variant: None },
            others: Vec::new(),
            layers: vec![pick],
        };
        let blob = (Digest::of(b"compressed"), pick);
        txn.commit(&Batch { layers: new, images: vec![image], blobs: vec![blob] })
            .map(|mut images| images.remove(0))
    }
}

/// Every path below the store that holds content, except the journal.
fn files(root: &Path) -> BTreeSet<PathBuf> {
    ["layers", "blobs/sha256", "tmp", "trash", "partial"]
        .iter()
        .flat_map(|dir| std::fs::read_dir(root.join(dir)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect()
}

fn full(name: &str) -> String {
    format!("docker.io/library/{name}:latest")
}

#[test]
fn a_commit_is_visible_to_every_other_store_handle() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    let reader = Store::open(&root).unwrap();
    assert!(reader.images().unwrap().is_empty());
    let writer = Store::open(&root).unwrap();
    let image = sample("a", "base").import(&writer, &[&full("a")]).unwrap();
    assert_eq!(reader.images().unwrap(), std::slice::from_ref(&image));
    assert_eq!(reader.find("a").unwrap(), image);
    assert_eq!(reader.find(&image.id.hex()[..12]).unwrap(), image);
    assert_eq!(reader.find(&image.manifest.to_string()).unwrap(), image);
    assert_eq!(reader.find(&format!("a@{}", image.manifest)).unwrap(), image);
    assert_eq!(std::fs::read_to_string(reader.lower_dirs(&image)[0].join("file")).unwrap(), "base");
    assert_eq!(root.metadata().unwrap().mode() & 0o7777, 0o700);
    assert_eq!(reader.layer_of_blob(&Digest::of(b"compressed")).unwrap().unwrap().id, image.layers[0]);
    assert!(std::fs::read_dir(root.join("tmp")).unwrap().next().is_none());
}

#[test]
fn a_name_moves_to_the_newest_image_and_near_names_are_offered() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    sample("a", "base").import(&store, &[&full("alpine"), "localhost/mine:1"]).unwrap();
    let b = sample("b", "base").import(&store, &[&full("alpine")]).unwrap();
    assert_eq!(store.find("alpine").unwrap().manifest, b.manifest);
    assert_eq!(store.find("mine:1").unwrap().names, ["localhost/mine:1"]);
    let error = store.find("alpin").unwrap_err();
    assert_eq!(error.kind(), Kind::NotFound);
    assert!(error.first_hint().unwrap().contains("docker.io/library/alpine:latest"), "{error:?}");
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.find("alpine").unwrap().manifest, b.manifest);
}

#[test]
fn a_shared_layer_is_stored_once_and_goes_with_its_last_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let a = sample("a", "base").import(&store, &[&full("a")]).unwrap();
    let b = sample("b", "base").import(&store, &[&full("b"), &full("c")]).unwrap();
    assert_eq!(a.layers, b.layers);
    let layer = store.lower_dir(a.layers[0]);
    store.remove(&["a".to_owned()]).unwrap();
    assert!(layer.exists());
    assert_eq!(store.remove(&["b".to_owned()]).unwrap(), [Removed::Name(full("b"))]);
    let removed = store.remove(&["c".to_owned()]).unwrap();
    assert_eq!(removed, [Removed::Name(full("c")), Removed::Image(b.id)]);
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
    let again = sample("a", "base").import(&store, &[]).unwrap();
    assert_ne!(again.layers, a.layers, "a layer number is never given twice");
}

#[test]
fn an_image_in_use_stays_until_the_container_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let image = sample("a", "base").import(&store, &[&full("a"), &full("b")]).unwrap();
    let hold = store.hold(&image, "web-1").unwrap();
    assert_eq!(store.hold(&image, "web-1").unwrap_err().kind(), Kind::Exists);
    assert!(store.hold(&image, "../x").is_err());
    store.remove(&["b".to_owned()]).unwrap();
    let error = store.remove(&["a".to_owned()]).unwrap_err();
    assert_eq!(error.kind(), Kind::Busy);
    assert!(error.to_string().contains("web-1"), "{error}");
    assert!(store.lower_dirs(&image)[0].exists());
    let container = hold.directory().to_owned();
    drop(hold);
    assert_eq!(Store::open(dir.path()).unwrap().remove(&["a".to_owned()]).unwrap_err().kind(), Kind::Busy);
    std::fs::remove_dir_all(container).unwrap();
    store.remove(&["a".to_owned()]).unwrap();
    assert_eq!(store.hold(&image, "web-2").unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_layer_that_a_transaction_keeps_outlives_its_image() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let image = sample("a", "base").import(&store, &[&full("a")]).unwrap();
    let txn = store.begin().unwrap();
    assert!(txn.keep(image.layers[0]).unwrap());
    store.remove(&["a".to_owned()]).unwrap();
    Store::open(dir.path()).unwrap();
    assert!(store.lower_dirs(&image)[0].exists());
    drop(txn);
    Store::open(dir.path()).unwrap();
    assert!(!store.lower_dirs(&image)[0].exists());
    let txn = store.begin().unwrap();
    assert!(!txn.keep(image.layers[0]).unwrap());
}

#[test]
fn two_transactions_with_one_layer_commit_it_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    Store::open(root).unwrap();
    let staged_by_both = std::sync::Barrier::new(2);
    let staged_by_both = &staged_by_both;
    let bring = |name: &'static str| {
        let store = Store::open(root).unwrap().on_step(move |_| {});
        let sample = sample(name, "base");
        let txn = store.begin().unwrap();
        let diff_id = Digest::of(b"base");
        let staged = txn.stage_layer().unwrap();
        txn.stage_blob(&sample.manifest(), &sample.manifest).unwrap();
        txn.stage_blob(&Digest::of(&sample.config), &sample.config).unwrap();
        staged_by_both.wait();
        let new =
            NewLayer { staged, diff_id, chain: None, hides_all_lower: false, size_bytes: 1, entries: 1 };
        let image = NewImage {
            id: Digest::of(&sample.config),
            manifest: sample.manifest(),
            names: vec![],
            repo_digests: vec![],
            platform: Platform { os: "linux".into(), architecture: "arm".into(), variant: None },
            others: Vec::new(),
            layers: vec![Pick::New(0)],
        };
        txn.commit(&Batch { layers: vec![new], images: vec![image], blobs: vec![] }).unwrap().remove(0)
    };
    let (one, two) = std::thread::scope(|scope| {
        let one = scope.spawn(|| bring("one"));
        let two = bring("two");
        (one.join().unwrap(), two)
    });
    assert_eq!(one.layers, two.layers);
    assert_eq!(std::fs::read_dir(root.join("layers")).unwrap().count(), 1);
    assert_eq!(files(root).len(), 1 + 4);
}

const STEPS: [Step; 7] = [
    Step::Begun,
    Step::LayerStaged,
    Step::BlobStaged,
    Step::Synced,
    Step::Placed,
    Step::NamesSynced,
    Step::Journalled,
];

/// Not a test by itself: this process kills itself at the step that the environment names.
#[test]
fn child_that_is_killed_at_a_step() {
    let (Some(root), Some(step)) =
        (std::env::var_os("STORE_CRASH_ROOT"), std::env::var_os("STORE_CRASH_STEP"))
    else {
        return;
    };
    let store = Store::open(Path::new(&root)).unwrap().on_step(move |now| {
        if step == *format!("{now:?}") {
            nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    });
    sample("new", "top").import(&store, &[&full("old")]).unwrap();
    store.remove(&[sample("new", "top").manifest().to_string()]).unwrap();
}

fn killed_at(root: &Path, step: Step) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::child_that_is_killed_at_a_step"])
        .env("STORE_CRASH_ROOT", root)
        .env("STORE_CRASH_STEP", format!("{step:?}"))
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(libc::SIGKILL), "{step:?}");
}

#[test]
fn killed_at_any_step_an_image_is_whole_or_absent() {
    for step in STEPS {
        let dir = tempfile::tempdir().unwrap();
        let old = sample("old", "base").import(&Store::open(dir.path()).unwrap(), &[&full("old")]).unwrap();
        let before = files(dir.path());
        killed_at(dir.path(), step);
        let store = Store::open(dir.path()).unwrap();
        store.gc().unwrap();
        let found = store.find("old").unwrap();
        if step == Step::Journalled {
            assert_eq!(found.manifest, sample("new", "top").manifest());
            assert_eq!(std::fs::read_to_string(store.lower_dirs(&found)[0].join("file")).unwrap(), "top");
            store.config(&found).unwrap();
            assert_eq!(files(dir.path()).len(), before.len() + 3, "{:?}", files(dir.path()));
        } else {
            assert_eq!(found, old);
            assert_eq!(files(dir.path()), before, "{step:?}");
        }
    }
}

#[test]
fn the_next_open_completes_a_killed_removal() {
    let dir = tempfile::tempdir().unwrap();
    killed_at(dir.path(), Step::Removed);
    let store = Store::open(dir.path()).unwrap();
    assert!(store.images().unwrap().is_empty());
    store.gc().unwrap();
    assert!(files(dir.path()).is_empty(), "{:?}", files(dir.path()));
}

#[test]
fn the_journal_stays_small_however_often_names_move() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let image = sample("a", "base").import(&store, &[]).unwrap();
    let length = || dir.path().join("journal").metadata().unwrap().len();
    let reader = Store::open(dir.path()).unwrap();
    let names: Vec<String> = (0..40).map(|n| format!("localhost/{}{n}:1", "n".repeat(100))).collect();
    let mut largest = 0;
    while length() >= largest {
        largest = length();
        store.tag(&image.manifest, &names).unwrap();
        for name in &names {
            store.remove(std::slice::from_ref(name)).ok();
        }
        sample("a", "base").import(&store, &[]).unwrap();
        assert!(largest < 2 * COMPACT_ABOVE);
    }
    assert_eq!(reader.images().unwrap(), store.images().unwrap());
}

#[test]
fn a_store_of_another_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Store::open(dir.path()).unwrap();
    std::fs::write(dir.path().join("VERSION"), "7\n").unwrap();
    assert_eq!(Store::open(dir.path()).unwrap_err().kind(), Kind::Unsupported);
}

#[test]
fn a_damaged_record_never_makes_the_store_sweep_or_reuse_layers() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let a = sample("a", "base").import(&store, &[&full("a")]).unwrap();
    let journal = dir.path().join("journal");
    let second = usize::try_from(journal.metadata().unwrap().len()).unwrap();
    let b = sample("b", "top").import(&store, &[&full("b")]).unwrap();
    let third = usize::try_from(journal.metadata().unwrap().len()).unwrap();
    let c = sample("c", "base").import(&store, &[&full("c")]).unwrap();
    let mut bytes = std::fs::read(&journal).unwrap();
    for copy in [second, second.midpoint(third)] {
        bytes[copy + 60] ^= 0x20;
    }
    std::fs::write(&journal, &bytes).unwrap();
    let damaged = Store::open(dir.path()).unwrap();
    assert_eq!(damaged.find("a").unwrap(), a);
    assert_eq!(damaged.find("c").unwrap(), c);
    assert!(damaged.find("b").is_err());
    assert!(damaged.lower_dirs(&b)[0].exists(), "what the damaged record stood for is there to be repaired");
    let d = sample("d", "more").import(&damaged, &[]).unwrap();
    assert_ne!(d.layers, b.layers);
    assert_eq!(damaged.gc().unwrap_err().kind(), Kind::Corrupt);
    assert!(damaged.repair_journal().unwrap());
    assert!(!damaged.repair_journal().unwrap(), "once is enough");
    damaged.gc().unwrap();
    assert!(!damaged.lower_dirs(&b)[0].exists());
    let again = Store::open(dir.path()).unwrap();
    assert_eq!(again.images().unwrap(), damaged.images().unwrap());
    assert_eq!(again.find("c").unwrap(), c);
}

#[test]
fn one_damaged_copy_of_a_record_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    sample("a", "base").import(&store, &[&full("a")]).unwrap();
    sample("b", "top").import(&store, &[&full("b")]).unwrap();
    let images = store.images().unwrap();
    let journal = dir.path().join("journal");
    let whole = std::fs::read(&journal).unwrap();
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&journal, &bytes).unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.images().unwrap(), images, "byte {at}");
        let verdict = store.verify(&[], &mut |finding| assert_eq!(finding.path, "journal")).unwrap();
        assert_eq!(verdict.findings, 1, "byte {at}");
        assert!(store.repair_journal().unwrap());
        assert_eq!(store.verify(&[], &mut |_| {}).unwrap().findings, 0);
        assert_eq!(Store::open(dir.path()).unwrap().images().unwrap(), images);
    }
}

#[test]
fn a_store_with_a_damaged_version_file_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let image = sample("a", "base").import(&Store::open(dir.path()).unwrap(), &[]).unwrap();
    for rot in ["3\n", "1\u{b}", "", "\0\0"] {
        std::fs::write(dir.path().join("VERSION"), rot).unwrap();
        assert_eq!(
            Store::open(dir.path()).unwrap().images().unwrap(),
            std::slice::from_ref(&image),
            "{rot:?}"
        );
        assert_eq!(std::fs::read_to_string(dir.path().join("VERSION")).unwrap(), "1\n");
    }
}

#[test]
fn a_full_disk_is_detected_before_an_import() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    store.ensure_room(1).unwrap();
    let error = store.ensure_room(1 << 60).unwrap_err();
    assert!(error.to_string().contains("no room in"), "{error}");
    assert!(error.first_hint().unwrap().contains("prune"));
}

#[test]
fn prune_removes_unnamed_images_and_with_all_unused_ones() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let a = sample("a", "base").import(&store, &[&full("x")]).unwrap();
    let b = sample("b", "top").import(&store, &[&full("x")]).unwrap();
    let c = sample("c", "more").import(&store, &[&full("c")]).unwrap();
    assert_eq!(store.usage().unwrap().images.total, 3);
    assert_eq!(store.prune(false).unwrap(), [Removed::Image(a.id)]);
    assert!(store.prune(false).unwrap().is_empty());
    let _hold = store.hold(&c, "web").unwrap();
    let usage = store.usage().unwrap();
    assert_eq!((usage.images.total, usage.images.active, usage.images.reclaimable), (2, 1, 5));
    assert!(store.prune(true).unwrap().contains(&Removed::Image(b.id)));
    assert_eq!(store.images().unwrap(), [c]);
}

#[test]
fn a_changed_configuration_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let image = sample("a", "base").import(&store, &[]).unwrap();
    std::fs::write(store.blob_path(&image.id), "{}").unwrap();
    assert_eq!(store.config(&image).unwrap_err().kind(), Kind::Corrupt);
}

/// Simulates another boot by changing the boot ids in the journal.
fn reboot(root: &Path) {
    let store = Store::open_as_it_is(root).unwrap();
    let (_locked, mut now) = store.write().unwrap();
    let mut layers: Vec<LayerRecord> = now.layers.values().cloned().collect();
    layers.iter_mut().for_each(|layer| layer.boot = Some("an earlier one".to_owned()));
    now.commit(record::Event::Commit { layers, images: Vec::new(), blobs: Vec::new() }).unwrap();
}

#[test]
fn the_first_open_after_a_reboot_checks_earlier_layers_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let mut writer = index::Writer::new(std::fs::File::create(dir.path().join("record")).unwrap()).unwrap();
    let attributes = index::Attributes { mode: 0o644, ..index::Attributes::default() };
    let extents = vec![index::Extent { offset: 0, length: 4 }];
    let file = index::Record::File { path: b"file", attributes, size: 4, extents, crc: 0 };
    writer.put(&file).unwrap();
    writer.put(&index::Record::Dir { path: b"", attributes: None, opaque: false }).unwrap();
    writer.finish(Digest::of(b"base")).unwrap();
    let image = sample("a", "base").import(&store, &[&full("a")]).unwrap();
    std::fs::copy(dir.path().join("record"), store.layers.index(image.layers[0])).unwrap();
    let is_damaged = |store: &Store| store.layers(&store.find("a").unwrap()).unwrap()[0].damaged;
    let file = store.lower_dir(image.layers[0]).join("file");
    std::fs::write(&file, "").unwrap();
    assert!(!is_damaged(&Store::open(dir.path()).unwrap()), "this boot wrote it and knows it");
    std::fs::write(&file, "rot!").unwrap();
    reboot(dir.path());
    assert!(!is_damaged(&Store::open(dir.path()).unwrap()), "only types and sizes are looked at");
    std::fs::write(&file, "").unwrap();
    assert!(!is_damaged(&Store::open(dir.path()).unwrap()), "and only once");
    reboot(dir.path());
    let store = Store::open(dir.path()).unwrap();
    assert!(is_damaged(&store), "a file without its bytes is what a power cut leaves where the device lied");
    assert_eq!(store.hold(&image, "web").unwrap_err().kind(), Kind::Corrupt);
}
