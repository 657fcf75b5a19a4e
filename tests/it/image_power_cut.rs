//! The power fails at any step of a pull, an import, a removal, a collection or a repair, in the middle of a download,
//! or right after it has answered.
//!
//! A file system that writes nothing on its own (ext4 with `commit=300` on a loop device) is copied, device and not
//! page cache, while it is mounted: the copy has what a power cut would leave. It models neither a device that lies
//! about flushing nor torn sectors. With a sync before the copy it is what `kill -9` leaves.
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::path::{Path, PathBuf};
use std::process::Command;

use coracle::digest::Digest;
use coracle::image::import::{ImportOptions, import, open_source};
use coracle::image::progress::{Outcome, Progress, Silent};
use coracle::image::pull::pull;
use coracle::image::repair::{FromPath, repair};
use coracle::store::reference::Reference;
use coracle::store::{ImageRecord, Step, Store};

use super::image_fixture::{Image, Layout, Member, Pack, tar};
use super::pull_fixture::{Place, noise, place};
use super::support::registry::TestRegistry;

const FILES: usize = 400;

/// What was going on, where the power failed, and whether the image is there then.
type Cut = (&'static str, &'static str, bool);

const CUTS: [Cut; 34] = [
    ("pull", "Begun", false),
    ("pull", "LayerStaged", false),
    ("pull", "BlobStaged", false),
    ("pull", "Synced", false),
    ("pull", "Placed", false),
    ("pull", "NamesSynced", false),
    ("pull", "Journalled", true),
    ("pull", "Answered", true),
    ("import", "Begun", false),
    ("import", "LayerStaged", false),
    ("import", "BlobStaged", false),
    ("import", "Synced", false),
    ("import", "Placed", false),
    ("import", "NamesSynced", false),
    ("import", "Journalled", true),
    ("import", "Answered", true),
    ("remove", "Removed", false),
    ("remove", "Trashed", false),
    ("remove", "Answered", false),
    ("collect", "Swept", true),
    ("collect", "Trashed", true),
    ("collect", "Answered", true),
    ("repair", "Marked", true),
    ("repair", "LayerStaged", true),
    ("repair", "BlobStaged", true),
    ("repair", "Synced", true),
    ("repair", "Placed", true),
    ("repair", "NamesSynced", true),
    ("repair", "Journalled", true),
    ("repair", "Swept", true),
    ("repair", "Trashed", true),
    ("repair", "Answered", true),
    ("repair the journal", "Rewritten", true),
    ("repair the journal", "Answered", true),
];

/// The store with a registry that has the image.
struct Pulling {
    place: Place,
    registry: TestRegistry,
}

impl Pulling {
    fn into(store: Store, dir: &Path) -> Self {
        let registry = TestRegistry::start();
        let layout = Layout::read(&dir.join("layout"));
        registry.layout(&layout, "cut:1");
        Self { place: Place { store, ..place() }, registry }
    }

    fn pull(&self) -> ImageRecord {
        self.place.pulled(&self.registry.name("cut:1"))
    }
}

fn bring(store: &Store, dir: &Path) -> ImageRecord {
    let source = open_source(&dir.join("layout")).unwrap();
    import(store, source, &ImportOptions::default(), &Silent).unwrap().remove(0)
}

/// Not a test by itself: works on the disk whose power will fail, and copies it at the step that is asked for.
#[test]
fn child_that_works() {
    let Some(dir) = std::env::var_os("POWER_CUT_DIR").map(PathBuf::from) else { return };
    let work = std::env::var("POWER_CUT_WORK").unwrap();
    let root = dir.join("disk/store");
    if !["import", "pull"].contains(&work.as_str()) {
        let store = Store::open(&root).unwrap();
        let image = bring(&store, &dir);
        match work.as_str() {
            "repair" => std::fs::write(store.lower_dirs(&image)[0].join("file-7"), "rot").unwrap(),
            "repair the journal" => {
                let mut journal = std::fs::read(root.join("journal")).unwrap();
                journal[40] ^= 1;
                std::fs::write(root.join("journal"), journal).unwrap();
            }
            // What a process that died has left.
            "collect" => {
                std::fs::create_dir_all(root.join("tmp/1-1/layer-0/fs/dir")).unwrap();
                std::fs::write(root.join("tmp/1-1/layer-0/fs/dir/file"), "x").unwrap();
                std::fs::create_dir_all(root.join("layers/77/fs")).unwrap();
            }
            _ => {}
        }
        sync(&root);
    }
    let step = std::env::var("POWER_CUT_STEP").unwrap();
    let cut = dir.clone();
    let store = Store::open_as_it_is(&root).unwrap().on_step(move |now: Step| {
        if step == format!("{now:?}") && !cut.join("copy.img").exists() {
            copy_disk(&cut);
        }
    });
    match work.as_str() {
        "import" => drop(bring(&store, &dir)),
        "pull" => drop(Pulling::into(store, &dir).pull()),
        "remove" => drop(store.remove(&["localhost/layout:cut".to_owned()]).unwrap()),
        "collect" => drop(store.gc().unwrap()),
        _ => {
            let from = FromPath(dir.join("layout"));
            let images = store.images().unwrap();
            let repaired = repair(&store, &images, &from, &Silent).unwrap();
            assert!(repaired.left.is_empty());
        }
    }
    if !dir.join("copy.img").exists() {
        assert_eq!(std::env::var("POWER_CUT_STEP").unwrap(), "Answered", "the step was never taken");
        copy_disk(&dir);
    }
}

fn sync(path: &Path) {
    rustix::fs::syncfs(std::fs::File::open(path).unwrap()).unwrap();
}

/// What is on the device now, without what is only in memory; or with it, which is what `kill -9` leaves.
fn copy_disk(dir: &Path) {
    if std::env::var_os("POWER_CUT_KILL").is_some() {
        sync(&dir.join("disk"));
    }
    std::fs::copy(dir.join("disk.img"), dir.join("copy.img")).unwrap();
}

/// Not a test by itself: looks at what the power cut left.
#[test]
fn child_that_looks() {
    let Some(dir) = std::env::var_os("POWER_CUT_DIR").map(PathBuf::from) else { return };
    let work = std::env::var("POWER_CUT_WORK").unwrap();
    let is_there = std::env::var("POWER_CUT_THERE").unwrap() == "true";
    let store = Store::open(&dir.join("copy/store")).unwrap();
    let images = store.images().unwrap();
    assert_eq!(images.len(), usize::from(is_there));
    let findings = |images: &[ImageRecord]| {
        let mut found = Vec::new();
        store.verify(images, &mut |finding| found.push(finding.clone())).unwrap();
        found
    };
    // An image is whole, or known to be damaged until the repair is done.
    let found = findings(&images);
    assert!(found.is_empty() || work.starts_with("repair"), "{found:?}");
    let layers: usize = images.iter().map(|image| image.layers.len()).sum();
    let image = match work.as_str() {
        "pull" => Pulling::into(Store::open(store.root()).unwrap(), &dir).pull(),
        _ => bring(&store, &dir),
    };
    assert_eq!(findings(std::slice::from_ref(&image)).iter().filter(|f| f.path != "journal").count(), 0);
    for n in 0..FILES {
        let path = store.lower_dirs(&image)[0].join(format!("file-{n}"));
        assert_eq!(std::fs::read(&path).unwrap(), content(n), "{}", path.display());
    }
    store.gc().unwrap();
    let count = |name: &str| std::fs::read_dir(store.root().join(name)).unwrap().count();
    assert_eq!((count("tmp"), count("trash"), count("layers")), (0, 0, layers.max(1)));
    assert_eq!(count("blobs/sha256"), 2);
}

fn content(n: usize) -> Vec<u8> {
    format!("{n} ").repeat(200).into_bytes()
}

#[test]
fn after_a_power_cut_an_image_is_whole_or_absent() {
    needs!(root, mkfs_ext4, loop_devices);
    let names: Vec<String> = (0..FILES).map(|n| format!("file-{n}")).collect();
    let contents: Vec<Vec<u8>> = (0..FILES).map(content).collect();
    let members: Vec<Member<'_>> =
        names.iter().zip(&contents).map(|(name, data)| Member::File(name, data)).collect();
    let image = Image { layers: vec![tar(&members)], pack: Pack::Gzip, platform: "", name: Some("cut") };
    let layout = Layout::of(image);
    for (work, step, is_there) in CUTS {
        cut(&layout, (work, step, is_there), false);
        // Whether the record of a commit was written decides, not whether it was synced.
        cut(&layout, (work, step, is_there), true);
    }
}

fn cut(layout: &Layout, (work, step, is_there): Cut, is_kill: bool) {
    let children = ["child_that_works", "child_that_looks"];
    on_a_disk(layout, children, (work, step, is_there), is_kill);
}

/// Runs one child on a disk, and the other one on what its power cut left.
fn on_a_disk(layout: &Layout, children: [&str; 2], (work, step, is_there): Cut, is_kill: bool) {
    let dir = tempfile::tempdir().unwrap();
    layout.write(&dir.path().join("layout"));
    let script = "set -e; cd \"$POWER_CUT_DIR\"; mkdir disk copy; truncate -s $2 disk.img; \
            mkfs.ext4 -q -F disk.img; mount -o loop,commit=300 disk.img disk; \
            \"$1\" --exact image_power_cut::$3 --nocapture; \
            mount -o loop copy.img copy; \
            \"$1\" --exact image_power_cut::$4 --nocapture";
    let mut command = Command::new("timeout");
    if is_kill {
        command.env("POWER_CUT_KILL", "1");
    }
    let output = command
        .args(["120", "unshare", "--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .arg(if work == "spool" { "128M" } else { "32M" })
        .args(children)
        .env("POWER_CUT_DIR", dir.path())
        .env("POWER_CUT_WORK", work)
        .env("POWER_CUT_STEP", step)
        .env("POWER_CUT_THERE", is_there.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.matches("1 passed").count() == 2,
        "{work}, {step}, killed: {is_kill}: {text}"
    );
}

/// Cuts the power when so many bytes have come in.
struct CutAt<'a> {
    dir: &'a Path,
    left: std::sync::atomic::AtomicU64,
}

impl Progress for CutAt<'_> {
    fn begin(&self, _layer: &Digest, _size_bytes: u64) {}

    fn advance(&self, _layer: &Digest, bytes: u64) {
        let before = self.left.load(std::sync::atomic::Ordering::Relaxed);
        self.left.store(before.saturating_sub(bytes), std::sync::atomic::Ordering::Relaxed);
        if before > 0 && before <= bytes {
            copy_disk(self.dir);
        }
    }

    fn end(&self, _layer: &Digest, _outcome: Outcome) {}
    fn warn(&self, _text: &str) {}
}

const BIG: usize = 20 << 20;
const CUT_AT: u64 = 18 << 20;
/// A download that is kept is made durable each time so much has come.
const DURABLE: u64 = 16 << 20;
/// Bytes that come at once, at most.
const PIECE: u64 = 1 << 20;

/// Not a test by itself: gets a large layer, which is kept while it comes in.
#[test]
fn child_that_gets_a_large_layer() {
    let Some(dir) = std::env::var_os("POWER_CUT_DIR").map(PathBuf::from) else { return };
    let mut pulling = Pulling::into(Store::open(&dir.join("disk/store")).unwrap(), &dir);
    sync(&dir.join("disk"));
    pulling.place.options.spool_above = 1 << 20;
    let cut = CutAt { dir: &dir, left: CUT_AT.into() };
    let name = Reference::parse(&pulling.registry.name("cut:1")).unwrap();
    pull(&pulling.place.store, &name, &pulling.place.options, &cut).unwrap();
}

/// Not a test by itself: goes on with what the power cut left.
#[test]
fn child_that_goes_on() {
    let Some(dir) = std::env::var_os("POWER_CUT_DIR").map(PathBuf::from) else { return };
    let pulling = Pulling::into(Store::open(&dir.join("copy/store")).unwrap(), &dir);
    assert!(pulling.place.store.images().unwrap().is_empty());
    let image = pulling.pull();
    let data = std::fs::read(pulling.place.store.lower_dirs(&image)[0].join("data")).unwrap();
    assert!(data == noise(BIG), "the layer is another one");
    let seen = pulling.registry.seen();
    let asked: Vec<_> = seen.iter().filter_map(|seen| seen.headers.get("range")).collect();
    let [range] = asked.as_slice() else { panic!("{asked:?}") };
    let from: u64 = range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    assert!((DURABLE..CUT_AT + PIECE).contains(&from), "it went on at {from}");
    assert!(pulling.place.partials().is_empty());
}

#[test]
fn a_power_cut_in_the_middle_of_a_download_loses_only_the_last_of_it() {
    needs!(root, mkfs_ext4, loop_devices);
    let layers = vec![tar(&[Member::File("data", &noise(BIG))])];
    let layout = Layout::of(Image { layers, pack: Pack::Plain, platform: "", name: Some("cut") });
    let children = ["child_that_gets_a_large_layer", "child_that_goes_on"];
    for is_kill in [false, true] {
        on_a_disk(&layout, children, ("spool", "", false), is_kill);
    }
}
