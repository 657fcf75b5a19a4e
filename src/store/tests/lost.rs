//! Journals that are lost, names, and holds of volumes.

use super::*;

/// Ways in which a power cut or worn flash loses the journal.
fn lose(journal: &Path, how: &str) {
    let length = usize::try_from(journal.metadata().unwrap().len()).unwrap();
    match how {
        "missing" => std::fs::remove_file(journal).unwrap(),
        "empty" => std::fs::write(journal, "").unwrap(),
        "zeros" => std::fs::write(journal, vec![0; length]).unwrap(),
        "garbage" => std::fs::write(journal, b"cjr2 garbage".repeat(length / 12)).unwrap(),
        other => panic!("unknown way {other}"),
    }
}

#[test]
fn a_lost_journal_is_an_error_and_nothing_is_deleted() {
    for how in ["missing", "empty", "zeros", "garbage"] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let image = sample("a", "base").import(&store, &[&full("a")]).unwrap();
        let before = files(dir.path());
        lose(&dir.path().join("journal"), how);
        let mut errors =
            vec![Store::open(dir.path()).unwrap_err(), Store::open_as_it_is(dir.path()).unwrap_err()];
        // A process that has read the journal notices a change of its length.
        if matches!(how, "missing" | "empty") {
            errors.extend([
                store.images().unwrap_err(),
                store.images().unwrap_err(),
                store.gc().unwrap_err(),
                store.remove(&["a".to_owned()]).unwrap_err(),
                store.begin().and_then(|txn| txn.commit(&Batch::default())).unwrap_err(),
            ]);
        }
        for error in errors {
            assert_eq!(error.kind(), Kind::Corrupt, "{how}: {error}");
            assert!(error.to_string().contains("journal"), "{how}: {error}");
            assert!(error.first_hint().unwrap().contains("coracle image repair"), "{how}: {error:?}");
        }
        assert_eq!(files(dir.path()), before, "{how}");
        let (repaired, rewritten) = Store::open_to_repair(dir.path()).unwrap();
        // The sample has neither a real manifest nor a record of its paths.
        assert_eq!(rewritten, Some(Rewritten { rebuilt: Vec::new(), lost_layers: 1 }), "{how}");
        let again = sample("b", "top").import(&repaired, &[]).unwrap();
        assert_ne!(again.layers, image.layers, "{how}");
        drop(repaired);
        let repaired = Store::open(dir.path()).unwrap();
        repaired.remove(&[again.manifest.to_string()]).unwrap();
        repaired.gc_known().unwrap();
        assert!(files(dir.path()).is_superset(&before), "{how}");
        assert!(Store::open_to_repair(dir.path()).unwrap().1.is_none(), "{how}: once is enough");
        repaired.gc().unwrap();
        assert!(files(dir.path()).is_empty(), "{how}: {:?}", files(dir.path()));
    }
}

#[test]
fn wherever_the_journal_is_cut_off_no_committed_layer_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let a = sample("a", "base").import(&store, &[&full("a")]).unwrap();
    let journal = dir.path().join("journal");
    let first = usize::try_from(journal.metadata().unwrap().len()).unwrap();
    let b = sample("b", "top").import(&store, &[&full("b")]).unwrap();
    let whole = std::fs::read(&journal).unwrap();
    drop(store);
    let layers = [&a, &b].map(|image| dir.path().join("layers").join(image.layers[0].to_string()));
    for cut in (0..whole.len()).step_by(61).chain([first - 1, first, first + 1, whole.len()]) {
        for filler in [&b""[..], &[0; 40], &[0xff; 7]] {
            std::fs::write(&journal, [&whole[..cut], filler].concat()).unwrap();
            let opened = Store::open(dir.path());
            match cut {
                // Not even one copy of the first record is whole.
                _ if cut < first / 2 => assert_eq!(opened.unwrap_err().kind(), Kind::Corrupt, "cut at {cut}"),
                _ if cut < first + (whole.len() - first) / 2 => {
                    let store = opened.unwrap();
                    assert_eq!(store.find("a").unwrap(), a);
                    assert_eq!(store.gc().unwrap_err().kind(), Kind::Corrupt, "cut at {cut}");
                    sample("c", "more").import(&store, &[]).unwrap();
                    assert!(
                        Store::open(dir.path()).unwrap().gc().is_err(),
                        "cut at {cut}: {b:?} is not forgotten"
                    );
                    store.remove(&[sample("c", "more").manifest().to_string()]).unwrap();
                }
                _ => assert_eq!(opened.unwrap().find("b").unwrap(), b, "cut at {cut}"),
            }
            assert!(layers.iter().all(|layer| layer.join("fs/file").exists()), "cut at {cut}");
        }
    }
}

#[test]
fn a_first_import_killed_before_its_record_is_no_lost_journal() {
    for step in [Step::Begun, Step::Synced, Step::Placed, Step::NamesSynced] {
        for torn in [None, Some(&b""[..]), Some(b"cjr2")] {
            let dir = tempfile::tempdir().unwrap();
            killed_at(dir.path(), step);
            if let Some(torn) = torn {
                std::fs::write(dir.path().join("journal"), torn).unwrap();
            }
            let store = Store::open(dir.path()).unwrap();
            assert!(store.images().unwrap().is_empty(), "{step:?}");
            store.gc().unwrap();
            assert!(files(dir.path()).is_empty(), "{step:?}: {:?}", files(dir.path()));
        }
    }
}

#[test]
fn a_short_name_means_docker_io_before_localhost_whatever_the_digests() {
    for n in 0..8 {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let local = sample(&format!("local {n}"), "base").import(&store, &["localhost/base:1"]).unwrap();
        assert_eq!(store.find("base:1").unwrap(), local);
        let hub = sample("hub", "base").import(&store, &["docker.io/library/base:1"]).unwrap();
        assert_eq!(store.find("base:1").unwrap(), hub);
        assert_eq!(store.find("localhost/base:1").unwrap(), local);
        assert_eq!(store.find_named("base:1").unwrap().1.unwrap(), "docker.io/library/base:1");
        assert_eq!(
            store.remove(&["base:1".to_owned()]).unwrap(),
            [Removed::Name("docker.io/library/base:1".to_owned()), Removed::Image(hub.id)]
        );
        store.tag(&local.manifest, &["docker.io/library/base:1".to_owned()]).unwrap();
        let removed = store.remove(&["base:1".to_owned()]).unwrap();
        assert_eq!(removed, [Removed::Name("docker.io/library/base:1".to_owned())]);
        assert_eq!(store.find("base:1").unwrap().names, ["localhost/base:1"]);
    }
}

#[test]
fn a_name_with_a_digest_is_found_and_removed_as_it_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let digest = Digest::of(b"an index");
    for (own, typed) in
        [("docker.io/library/a@", "a@"), ("docker.io/library/a:1@", "a:1@"), ("localhost/b@", "b@")]
    {
        let (own, typed) = (format!("{own}{digest}"), format!("{typed}{digest}"));
        let image = sample("a", "base").import(&store, &[&own, "docker.io/library/other:1"]).unwrap();
        for name in [&own, &typed] {
            assert_eq!(store.find(name).unwrap(), image, "{name}");
        }
        assert_eq!(store.remove(std::slice::from_ref(&typed)).unwrap(), [Removed::Name(own)]);
        assert!(store.find(&typed).is_err());
    }
}

#[test]
fn an_image_that_a_container_has_as_a_volume_is_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let root = sample("root", "base").import(&store, &[&full("root")]).unwrap();
    let volume = sample("volume", "top").import(&store, &[&full("volume")]).unwrap();
    let hold = store.hold(&root, "web").unwrap();
    for number in [0, 1] {
        store.hold_volume(&volume, "web", number).unwrap();
    }
    for name in ["root", "volume"] {
        let error = store.remove(&[name.to_owned()]).unwrap_err();
        assert_eq!(error.kind(), Kind::Busy, "{name}");
        assert!(error.to_string().contains("web"), "{error}");
    }
    assert!(store.prune(true).unwrap().is_empty());
    let used = store.usage().unwrap();
    assert_eq!(used.by_image.iter().map(|image| image.containers).collect::<Vec<_>>(), [1, 1]);
    remove_container(hold.directory()).unwrap();
    store.remove(&["volume".to_owned()]).unwrap();
    assert_eq!(store.hold_volume(&volume, "web", 2).unwrap_err().kind(), Kind::NotFound);
}

#[test]
fn a_layer_whose_directory_is_gone_is_imported_again() {
    for lost in ["", "fs", "files.idx"] {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let image = sample("a", "base").import(&store, &[&full("a")]).unwrap();
        assert!(store.is_sound(&image).unwrap());
        let path = dir.path().join("layers/0").join(lost);
        if path.is_dir() {
            std::fs::remove_dir_all(&path).unwrap()
        } else {
            std::fs::remove_file(&path).unwrap()
        }
        assert!(!store.is_sound(&image).unwrap(), "{lost}");
        if lost != "files.idx" {
            let error = store.hold(&image, "web").unwrap_err();
            assert_eq!(error.kind(), Kind::Corrupt, "{lost}");
            assert!(error.first_hint().unwrap().contains("coracle image repair"), "{error:?}");
        }
        let again = sample("a", "base").import(&store, &[]).unwrap();
        assert!(store.is_sound(&again).unwrap(), "{lost}");
        store.hold(&store.find("a").unwrap(), "web").unwrap();
    }
}

#[test]
fn a_file_of_unfinished_work_with_two_names_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    let txn = store.begin().unwrap();
    let staged = txn.stage_layer().unwrap();
    std::fs::write(staged.path().join("file"), vec![1; 300_000]).unwrap();
    let before = store.usage().unwrap().waste.size;
    assert!(before >= 300_000, "{before}");
    for n in 0..5 {
        std::fs::hard_link(staged.path().join("file"), staged.path().join(format!("name-{n}"))).unwrap();
    }
    assert!(store.usage().unwrap().waste.size < before + 300_000);
}
