//! The power fails right after an import has answered, or in the middle of one.
//!
//! A file system that writes nothing on its own (ext4 with `commit=300` on a loop device) is copied, device and not
//! page cache, while it is mounted: the copy has what a power cut would leave. It models neither a device that lies
//! about flushing nor torn sectors.
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use coracle::image::import::{ImportOptions, import, open_source};
use coracle::image::progress::Silent;
use coracle::store::{Step, Store};

use super::image_fixture::{Image, Layout, Member, Pack, tar};

const FILES: usize = 400;

/// Not a test by itself: imports on the disk whose power will fail, and says when it has got to a step.
#[test]
fn child_that_imports() {
    let Some(dir) = std::env::var_os("POWER_CUT_DIR").map(PathBuf::from) else { return };
    let stop_at = std::env::var("POWER_CUT_STEP").unwrap();
    let cut = dir.clone();
    let store = Store::open(&dir.join("disk/store")).unwrap().on_step(move |step: Step| {
        if stop_at == format!("{step:?}") {
            copy_disk(&cut);
        }
    });
    import(&store, open_source(&dir.join("layout")).unwrap(), &ImportOptions::default(), &Silent).unwrap();
    if !dir.join("copy.img").exists() {
        copy_disk(&dir);
    }
}

/// What is on the device now, without what is only in memory.
fn copy_disk(dir: &Path) {
    std::fs::copy(dir.join("disk.img"), dir.join("copy.img")).unwrap();
}

/// Not a test by itself: looks at what the power cut left.
#[test]
fn child_that_looks() {
    let Some(dir) = std::env::var_os("POWER_CUT_DIR").map(PathBuf::from) else { return };
    let store = Store::open(&dir.join("copy/store")).unwrap();
    let images = store.images().unwrap();
    for image in &images {
        store.config(image).unwrap();
        for n in 0..FILES {
            let path = store.lower_dirs(image)[0].join(format!("file-{n}"));
            assert_eq!(std::fs::read(&path).unwrap(), content(n), "{}", path.display());
        }
    }
    let step = std::env::var("POWER_CUT_STEP").unwrap();
    let is_committed = matches!(step.as_str(), "Journalled" | "Answered");
    assert_eq!(images.len(), usize::from(is_committed), "{step}");
    assert_eq!(std::fs::read_dir(store.root().join("tmp")).unwrap().count(), 0);
    assert_eq!(std::fs::read_dir(store.root().join("layers")).unwrap().count(), images.len());
}

fn content(n: usize) -> Vec<u8> {
    format!("{n} ").repeat(200).into_bytes()
}

#[test]
fn after_a_power_cut_an_image_is_whole_or_absent() {
    let has_tools = Command::new("mkfs.ext4").arg("-V").stderr(Stdio::null()).status().is_ok();
    if !rustix::process::geteuid().is_root() || !has_tools || !Path::new("/dev/loop-control").exists() {
        println!("SKIP: needs root, mkfs.ext4 and loop devices");
        return;
    }
    let names: Vec<String> = (0..FILES).map(|n| format!("file-{n}")).collect();
    let contents: Vec<Vec<u8>> = (0..FILES).map(content).collect();
    let members: Vec<Member<'_>> =
        names.iter().zip(&contents).map(|(name, data)| Member::File(name, data)).collect();
    let image = Image { layers: vec![tar(&members)], pack: Pack::Gzip, platform: "", name: Some("cut:1") };
    let layout = Layout::of(image);
    for step in ["Synced", "Placed", "NamesSynced", "Journalled", "Answered"] {
        let dir = tempfile::tempdir().unwrap();
        layout.write(&dir.path().join("layout"));
        let script = "set -e; cd \"$POWER_CUT_DIR\"; mkdir disk copy; truncate -s 32M disk.img; \
            mkfs.ext4 -q -F disk.img; mount -o loop,commit=300 disk.img disk; \
            \"$1\" --exact image_power_cut::child_that_imports --nocapture; \
            mount -o loop copy.img copy; \
            \"$1\" --exact image_power_cut::child_that_looks --nocapture";
        let output = Command::new("timeout")
            .args(["120", "unshare", "--mount", "sh", "-c", script, "sh"])
            .arg(std::env::current_exe().unwrap())
            .env("POWER_CUT_DIR", dir.path())
            .env("POWER_CUT_STEP", step)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.matches("1 passed").count() == 2, "{step}: {text}");
    }
}
