//! The power fails at any step of an import, a removal, a collection or a repair, or right after it has answered.
//!
//! A file system that writes nothing on its own (ext4 with `commit=300` on a loop device) is copied, device and not
//! page cache, while it is mounted: the copy has what a power cut would leave. It models neither a device that lies
//! about flushing nor torn sectors. With a sync before the copy it is what `kill -9` leaves.
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::path::{Path, PathBuf};
use std::process::Command;

use coracle::image::import::{ImportOptions, import, open_source};
use coracle::image::progress::Silent;
use coracle::image::repair::{FromPath, repair};
use coracle::store::{ImageRecord, Step, Store};

use super::image_fixture::{Image, Layout, Member, Pack, tar};

const FILES: usize = 400;

/// What was going on, where the power failed, and whether the image is there then.
type Cut = (&'static str, &'static str, bool);

const CUTS: [Cut; 26] = [
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
    if work != "import" {
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
    let image = bring(&store, &dir);
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
    let dir = tempfile::tempdir().unwrap();
    layout.write(&dir.path().join("layout"));
    let script = "set -e; cd \"$POWER_CUT_DIR\"; mkdir disk copy; truncate -s 32M disk.img; \
            mkfs.ext4 -q -F disk.img; mount -o loop,commit=300 disk.img disk; \
            \"$1\" --exact image_power_cut::child_that_works --nocapture; \
            mount -o loop copy.img copy; \
            \"$1\" --exact image_power_cut::child_that_looks --nocapture";
    let mut command = Command::new("timeout");
    if is_kill {
        command.env("POWER_CUT_KILL", "1");
    }
    let output = command
        .args(["120", "unshare", "--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
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
