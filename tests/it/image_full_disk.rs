//! A disk that fills up in the middle of an import.
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use coracle::error::Kind;
use coracle::image::import::{ImportOptions, import, open_source};
use coracle::image::progress::Silent;
use coracle::store::Store;

use super::image_fixture::{Image, Layout, Member, Pack, image, tar};
use super::pull_fixture::{Place, noise, place};
use super::support::registry::TestRegistry;
use super::support::{Run, Runtime};

const CHILD: &str = "image_full_disk::child_in_a_mount_namespace_of_its_own";

/// Not a test by itself: runs where the parent test has mounted a small tmpfs.
#[test]
fn child_in_a_mount_namespace_of_its_own() {
    let Some(dir) = std::env::var_os("FULL_DISK_DIR").map(PathBuf::from) else { return };
    let store = Store::open(&dir.join("small/store")).unwrap();
    let bring = |name: &str| {
        import(&store, open_source(&dir.join(name)).unwrap(), &ImportOptions::default(), &Silent)
    };
    let small = bring("small-image").unwrap().remove(0);
    let before = listing(store.root());
    for big in ["big-image", "big.tar", "many-files"] {
        let error = bring(big).unwrap_err();
        assert!(error.chain().contains("no room in"), "{}", error.chain());
        assert!(error.first_hint().unwrap().contains("free some space"));
        assert_ne!(error.kind(), Kind::Corrupt);
        assert_eq!(listing(store.root()), before, "{big}");
    }
    assert_eq!(store.images().unwrap(), [small]);
    bring("other-image").unwrap();
    // Each of these fits, but not all of them: that is known before the first one is got.
    let registry = TestRegistry::start();
    let layers = (1..4).map(|n| tar(&[Member::File("noise", &noise((1 << 20) + n))])).collect();
    let layout = Layout::of(Image { layers, pack: Pack::Plain, platform: "", name: None });
    registry.layout(&layout, "app:1");
    let place = Place { store: Store::open(store.root()).unwrap(), ..place() };
    let error = place.pull(&registry.name("app:1")).unwrap_err();
    assert!(error.chain().contains("no room in"), "{}", error.chain());
    assert_eq!(registry.count("/blobs/"), 1, "the configuration alone");
}

/// Every path in the store.
fn listing(root: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.is_symlink() {
                todo.push(path.clone());
            }
            all.push(path);
        }
    }
    all.sort();
    all
}

#[test]
fn a_disk_that_fills_up_leaves_the_store_as_it_was() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: needs root for a mount namespace");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    // Bytes that do not compress, so that an archive needs room for itself as well.
    let noise = noise(6 << 20);
    let big = Image {
        layers: vec![tar(&[Member::File("one", b"1")]), tar(&[Member::File("noise", &noise)])],
        pack: Pack::Gzip,
        platform: "",
        name: Some("big:1"),
    };
    let names: Vec<String> = (0..6000).map(|n| format!("file-{n}")).collect();
    let files: Vec<Member<'_>> = names.iter().map(|name| Member::File(name, b"x")).collect();
    let many = Image { layers: vec![tar(&files)], pack: Pack::Gzip, platform: "", name: Some("many:1") };
    Layout::of(image("small:1")).write(&at("small-image"));
    Layout::of(image("other:1")).write(&at("other-image"));
    Layout::of(many).write(&at("many-files"));
    let big = Layout::of(big);
    big.write(&at("big-image"));
    std::fs::write(at("big.tar"), big.tar(false)).unwrap();
    std::fs::create_dir(at("small")).unwrap();
    let script = "mount -t tmpfs -o size=3m,nr_inodes=2000 small \"$FULL_DISK_DIR/small\" && exec \"$@\"";
    let output = Command::new("timeout")
        .args(["60", "unshare", "--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", CHILD, "--nocapture"])
        .env("FULL_DISK_DIR", dir.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

/// Few kernels of test machines keep quotas, so the answer of one that does is put in the kernel's mouth: in the data of
/// a file, in a new directory, and in the record of the layer.
#[test]
fn a_quota_that_is_used_up_leaves_the_store_as_it_was() {
    needs!(root, strace);
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<String> = (0..1000).map(|n| format!("file-{n}")).collect();
    let mut members: Vec<Member<'_>> = names.iter().map(|name| Member::File(name, b"x")).collect();
    members.push(Member::Dir("dir/", 0o755));
    let big = Image { layers: vec![tar(&members)], pack: Pack::Gzip, platform: "", name: Some("big:1") };
    let (layout, root) = (dir.path().join("big-image"), dir.path().join("store"));
    Layout::of(big).write(&layout);
    Layout::of(image("small:1")).write(&dir.path().join("small-image"));
    let store = Store::open(&root).unwrap();
    let small = open_source(&dir.path().join("small-image")).unwrap();
    let small = import(&store, small, &ImportOptions::default(), &Silent).unwrap();
    let before = listing(&root);
    for fault in ["pwrite64:error=EDQUOT:when=400", "mkdirat:error=EDQUOT", "syncfs:error=EDQUOT"] {
        let call = fault.split(':').next().unwrap();
        let run = Run::new("strace")
            .args([
                "-f",
                "--seccomp-bpf",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace={call}"),
                "-e",
                &format!("inject={fault}"),
            ])
            .arg(Runtime::Ours.program())
            .args(["--store", root.to_str().unwrap(), "image", "import", layout.to_str().unwrap()])
            // On an emulated board, strace takes its time.
            .patience(Duration::from_secs(180))
            .go();
        assert_eq!(run.code(), Some(1), "{fault}: {}{}", run.stdout, run.stderr);
        assert!(run.stderr.contains("no room in") && run.stderr.contains("quota"), "{fault}: {}", run.stderr);
        assert_eq!(listing(&root), before, "{fault}");
        assert_eq!(store.images().unwrap(), small);
    }
    import(&store, open_source(&layout).unwrap(), &ImportOptions::default(), &Silent).unwrap();
}
