//! Known attacks on whatever takes images in, and where each is tested; those that had no other place are here.
//!
//! | attack | from | tests |
//! |---|---|---|
//! | links planted and written through, names that lead out, hard links to the host | nbc #85 and #86, CVE-2026-50163, CVE-2025-5981, CVE-2014-6407, CVE-2014-9356 | `layer_attacks` |
//! | attributes set through a hard link to a link | CVE-2021-32760 and the breakouts that containerd tests | `layer_attacks` |
//! | a directory swapped for a link before its attributes are set | CVE-2026-33056 | `layer_attacks` |
//! | two readings of one archive: sizes, long names, malformed records | CVE-2025-62518, CVE-2026-33055, CVE-2026-32766 | `layer_attacks` |
//! | endless maps of holes | CVE-2025-58183 | `layer_attacks` |
//! | the directory swapped while a layer is unpacked or mounted | CVE-2025-47290 | here; `cve::cve_2021_30465_…` |
//! | set-user-ID files of images within everybody's reach | CVE-2021-41091, CVE-2021-41103, CVE-2024-25621 | here |
//! | a volume behind a link | CVE-2022-23648 | `cve` |
//! | `/etc/passwd` that is a link, a FIFO or endless | CVE-2024-9676, CVE-2026-47262 | here; `spec::user` |
//! | endless indexes, manifests, configurations | CVE-2023-25153 | here; `image_import`, `pull` |
//! | labels that become annotations | CVE-2026-53488 | `launch::labels_of_the_image_do_not_become_annotations` |
//! | an image that takes the name of another | CVE-2026-50195 | here |
//! | a document that is index and manifest | CVE-2021-41190 | `image::document`, `image_import` |
//! | a digest that is a path | CVE-2024-3727 | here |
//! | logins that reach another host | CVE-2020-15157 | `pull_auth` |
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::fs;
use std::io::Cursor;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use coracle::error::Kind;
use coracle::image::import::{ImportOptions, Source, import, open_source};
use coracle::image::layer::{Limits, apply};
use coracle::image::progress::Silent;
use coracle::store::Store;
use serde_json::{Value, json};

use super::image_fixture::{Image, Layout, Member, Pack, image, path_of, sha, tar};
use super::pull_fixture::place;
use super::support::Run;
use super::support::registry::TestRegistry;

#[test]
fn cve_2025_47290_a_directory_swapped_while_a_layer_is_unpacked_leads_nowhere() {
    needs!(root);
    let dir = tempfile::tempdir().unwrap();
    let (root, victim) = (dir.path().join("layer"), dir.path().join("victim"));
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir_all(victim.join("etc")).unwrap();
    fs::write(victim.join("etc/passwd"), "of the host").unwrap();
    fs::remove_dir(root.join("etc")).unwrap();
    let big = vec![7; 300 << 10];
    let layer = tar(&[
        Member::Dir("etc/", 0o755),
        Member::File("etc/first", &big),
        Member::File("etc/passwd", b"of the image"),
        Member::HardLink("etc/again", "etc/passwd"),
    ]);
    let handle = fs::File::open(&root).unwrap();
    let mut is_swapped = false;
    let mut swap = |_bytes: u64| {
        if !std::mem::replace(&mut is_swapped, true) {
            fs::rename(&root, dir.path().join("moved")).unwrap();
            std::os::unix::fs::symlink(&victim, &root).unwrap();
        }
    };
    apply(Cursor::new(layer), handle.as_fd(), &Limits::default(), &mut swap).unwrap();
    assert_eq!(fs::read(victim.join("etc/passwd")).unwrap(), b"of the host");
    assert_eq!(fs::read_dir(victim.join("etc")).unwrap().count(), 1);
    assert_eq!(fs::read(dir.path().join("moved/etc/again")).unwrap(), b"of the image");
}

#[test]
fn cve_2021_41103_nobody_but_the_owner_gets_into_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("store");
    // One that was made before by somebody careless, too.
    fs::create_dir(&root).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o755)).unwrap();
    let mode = || root.metadata().unwrap().permissions().mode() & 0o777;
    let store = Store::open(&root).unwrap();
    assert_eq!(mode(), 0o700);
    let mut layer = tar(&[Member::File("bin", b"x")]);
    layer[100..107].copy_from_slice(b"0004755");
    let sum: u32 = (0..512).map(|at| if (148..156).contains(&at) { 32 } else { u32::from(layer[at]) }).sum();
    layer[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let layout = Layout::of(Image { layers: vec![layer], pack: Pack::Gzip, platform: "", name: None });
    layout.write(&dir.path().join("layout"));
    let source = open_source(&dir.path().join("layout")).unwrap();
    let image = import(&store, source, &ImportOptions::default(), &Silent).unwrap().remove(0);
    let file = store.lower_dirs(&image)[0].join("bin");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o7777, 0o4755, "it is what it should be");
    assert_eq!(mode(), 0o700);
    if rustix::process::geteuid().is_root() {
        let seen = Run::new("setpriv").args(["--reuid=12345", "--regid=12345", "--clear-groups", "cat"]);
        assert!(seen.arg(&file).go().fails().stderr.contains("Permission denied"));
    }
}

#[test]
fn cve_2026_47262_an_endless_passwd_stops_a_launch_with_a_word() {
    needs!(root, busybox, launch_verb);
    let config = json!({ "Cmd": ["/bin/true"], "Env": ["PATH=/bin"], "User": "web" });
    let sandbox = super::support::Sandbox::new();
    super::launch::import(&sandbox, config, |root| {
        let file = fs::File::create(root.join("etc/passwd")).unwrap();
        file.set_len(64 << 20).unwrap();
    });
    let output = super::launch::prepare(&sandbox, "box", ["--rm", "box"]).go().exits(125);
    assert!(output.stderr.contains("/etc/passwd has more than"), "{output}");
}

/// Brings a layout in as a directory and as a stream, which must both fail; whatever is read is never kept as a whole.
#[track_caller]
fn refused(layout: &Layout, kind: Kind, words: &str) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    layout.write(&dir.path().join("layout"));
    let sources = [
        open_source(&dir.path().join("layout")),
        Ok(Source::stream(Cursor::new(layout.tar(true)), None)),
        Ok(Source::stream(Cursor::new(layout.tar(false)), None)),
    ];
    for source in sources {
        let error =
            source.and_then(|source| import(&store, source, &ImportOptions::default(), &Silent)).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.chain().contains(words), "{words:?} is not in {}", error.chain());
        assert!(store.images().unwrap().is_empty());
    }
}

#[test]
fn cve_2023_25153_endless_documents_are_refused_before_they_fill_the_memory() {
    const FULL: usize = 5 << 20;
    let good = Layout::of(image("demo:1"));
    let entry = good.index["manifests"][0].clone();
    let mut index = good.clone();
    let mut bytes = serde_json::to_vec(&good.index).unwrap();
    bytes.resize(FULL, b' ');
    index.files.insert("index.json".to_owned(), bytes);
    refused(&index, Kind::Invalid, "index.json");
    // Of the size and digest that the descriptor says.
    let mut manifest = good.clone();
    manifest.edit_manifest(|manifest| manifest["annotations"] = json!({"x": "y".repeat(FULL)}));
    refused(&manifest, Kind::Invalid, "may have");
    let mut config = good.clone();
    config.edit_config(|config| config["comment"] = Value::String("y".repeat(FULL)));
    refused(&config, Kind::Invalid, "may have");
    // Bigger than the descriptor says.
    let mut lying = good.clone();
    lying.files.get_mut(&path_of(&entry)).unwrap().resize(FULL, b' ');
    let dir = tempfile::tempdir().unwrap();
    lying.write(dir.path());
    let store = Store::open(&dir.path().join("store")).unwrap();
    let source = open_source(dir.path()).unwrap();
    let error = import(&store, source, &ImportOptions::default(), &Silent).unwrap_err();
    assert_eq!(error.kind(), Kind::Invalid, "{error:?}");
}

#[test]
fn cve_2026_50195_what_an_image_says_of_itself_takes_no_name_from_another() {
    const TAKEN: &str = "docker.io/library/busybox:latest";
    let (place, registry) = (place(), TestRegistry::start());
    let own = Layout::of(image("busybox"));
    own.write(&place.dir.path().join("own"));
    let named = ImportOptions { names: vec![TAKEN.to_owned()], ..ImportOptions::default() };
    let bring = |path: &str, options: &ImportOptions| {
        let source = open_source(&place.dir.path().join(path)).unwrap();
        import(&place.store, source, options, &Silent).unwrap().remove(0)
    };
    let busybox = bring("own", &named);
    let says = json!({
        "org.opencontainers.image.ref.name": TAKEN,
        "io.containerd.image.name": TAKEN,
        "io.kubernetes.cri-o.annotations.checkpoint.name": TAKEN,
        "org.criu.checkpoint.rootfsImageName": TAKEN,
        "org.criu.checkpoint.container.name": TAKEN,
    });
    let mut evil = Layout::of(Image { name: None, ..image("evil") });
    evil.edit_config(|config| config["config"]["Labels"] = says.clone());
    evil.edit_manifest(|manifest| manifest["annotations"] = says.clone());
    // What a registry's index says counts for no name either.
    evil.entries()[0]["annotations"] = says.clone();
    let other = evil.manifest(&Image { platform: "linux/s390x", ..image("other") });
    evil.entries().push(other);
    registry.layout(&evil, "app:1");
    let pulled = place.pulled(&registry.name("app:1"));
    assert_eq!(pulled.names, [registry.name("app:1")]);
    // Nor what an archive says that comes in under a name the user has given.
    evil.entries().truncate(1);
    evil.entries()[0]["annotations"] = Value::Null;
    evil.write(&place.dir.path().join("evil"));
    bring("evil", &ImportOptions { names: vec!["localhost/app:1".to_owned()], ..ImportOptions::default() });
    assert_eq!(place.store.find(TAKEN).unwrap().id, busybox.id);
}

#[test]
fn cve_2024_3727_a_digest_that_is_a_path_names_nothing() {
    let good = Layout::of(image("demo:1"));
    let hex = &sha(b"x")[7..];
    for digest in [
        "sha256:../../../etc/passwd".to_owned(),
        "sha256:".to_owned(),
        format!("sha256:{}", &hex[..63]),
        format!("sha256:{}", hex.to_uppercase()),
        format!("sha256:{}/..", &hex[..61]),
        "sha512:../x".to_owned(),
        "../../etc/passwd".to_owned(),
        format!("md5:{}", &hex[..32]),
    ] {
        let mut entry = good.clone();
        entry.entries()[0]["digest"] = json!(digest);
        let mut layer = good.clone();
        layer.edit_manifest(|manifest| manifest["layers"][0]["digest"] = json!(digest));
        let mut config = good.clone();
        config.edit_manifest(|manifest| manifest["config"]["digest"] = json!(digest));
        let mut diff_id = good.clone();
        diff_id.edit_config(|config| config["rootfs"]["diff_ids"][0] = json!(digest));
        for layout in [entry, layer, config, diff_id] {
            let dir = tempfile::tempdir().unwrap();
            layout.write(&dir.path().join("layout"));
            let store = Store::open(&dir.path().join("store")).unwrap();
            let source = open_source(&dir.path().join("layout")).unwrap();
            let error = import(&store, source, &ImportOptions::default(), &Silent).unwrap_err();
            assert!(matches!(error.kind(), Kind::Invalid | Kind::Unsupported), "{digest}: {error:?}");
            for part in ["layers", "blobs/sha256", "tmp"] {
                assert_eq!(fs::read_dir(store.root().join(part)).unwrap().count(), 0, "{digest}: {part}");
            }
        }
    }
}
