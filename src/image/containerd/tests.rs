use super::*;

/// The store of a containerd 1.6, unpacked: three images, one of them with 151 names.
pub(super) fn golden() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let tar = zstd::decode_all(&include_bytes!("golden/store.tar.zst")[..]).unwrap();
    std::fs::write(dir.path().join("store.tar"), tar).unwrap();
    let status =
        std::process::Command::new("tar").arg("-xf").arg("store.tar").current_dir(dir.path()).status();
    assert!(status.unwrap().success());
    let root = dir.path().to_owned();
    (dir, root)
}

#[test]
fn numbers_are_gos() {
    assert_eq!(varint(&[0]), Some(0));
    assert_eq!(varint(&[0x80, 0x01]), Some(64));
    assert_eq!(varint(&[0xac, 0x04]), Some(278));
    // Negative, unfinished, empty.
    for bad in [&[1][..], &[0x80], &[], &[0xff; 20]] {
        assert_eq!(varint(bad), None, "{bad:?}");
    }
}

#[test]
fn images_are_imported_with_their_names_and_containerds_files_stay_as_they_are() {
    let (_dir, root) = golden();
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&home.path().join("store")).unwrap();
    let before = std::fs::read(root.join(METADATA)).unwrap();
    let containerd = Containerd::open(&root).unwrap().unwrap();
    let images = containerd.images();
    assert_eq!(images.len(), 3);
    assert_eq!(images[0].names, ["docker.io/library/demo1:1", "docker.io/library/second:2"]);
    for image in images {
        assert_eq!(containerd.availability(image, None).unwrap(), Availability::Importable);
        let records = containerd.import(image, &store, &Silent).unwrap();
        assert_eq!(records.len(), 1);
        assert_eq!(containerd.availability(image, Some(&store)).unwrap(), Availability::Present);
    }
    for name in
        ["demo1:1", "second:2", "demo2:1", "demo3:1", "registry.example.com/team/application-77:v1.77"]
    {
        store.find(name).unwrap();
    }
    let demo2 = store.find("demo2:1").unwrap();
    assert!(
        demo2.repo_digests.iter().any(|name| name.starts_with("docker.io/library/demo2@sha256:da24")),
        "{demo2:?}"
    );
    assert_eq!(std::fs::read(root.join(METADATA)).unwrap(), before);
}

#[test]
fn an_image_without_its_layers_is_named_and_spoils_no_other() {
    let (_dir, root) = golden();
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&home.path().join("store")).unwrap();
    let blobs = root.join(CONTENT).join("blobs/sha256");
    // The layers are compressed, all else is JSON.
    let is_layer = |path: &PathBuf| std::fs::read(path).unwrap().starts_with(&[0x1f, 0x8b]);
    let mut files = std::fs::read_dir(&blobs).unwrap().map(|entry| entry.unwrap().path());
    std::fs::remove_file(files.find(is_layer).unwrap()).unwrap();
    let containerd = Containerd::open(&root).unwrap().unwrap();
    let mut counts = (0, 0);
    for image in containerd.images() {
        match containerd.availability(image, Some(&store)).unwrap() {
            Availability::Incomplete(1) => {
                counts.0 += 1;
                assert_eq!(containerd.import(image, &store, &Silent).unwrap_err().kind(), Kind::NotFound);
            }
            Availability::Importable => {
                counts.1 += 1;
                containerd.import(image, &store, &Silent).unwrap();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((counts, store.images().unwrap().len()), ((1, 2), 2));
}

#[test]
fn changed_blobs_and_links_are_refused() {
    let (_dir, root) = golden();
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&home.path().join("store")).unwrap();
    let blobs = root.join(CONTENT).join("blobs/sha256");
    for entry in std::fs::read_dir(&blobs).unwrap().flatten() {
        let bytes = std::fs::read(entry.path()).unwrap();
        std::fs::remove_file(entry.path()).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            std::fs::write(entry.path(), [&bytes[..], b"x"].concat()).unwrap();
        } else {
            std::os::unix::fs::symlink("/etc/passwd", entry.path()).unwrap();
        }
    }
    let containerd = Containerd::open(&root).unwrap().unwrap();
    for image in containerd.images() {
        assert!(containerd.availability(image, None).is_err());
        assert!(containerd.import(image, &store, &Silent).is_err());
    }
    assert!(store.images().unwrap().is_empty());
    assert!(Containerd::open(home.path()).unwrap().is_none());
    std::fs::write(root.join(METADATA), "text").unwrap();
    let error = Containerd::open(&root).unwrap_err();
    assert!(error.kind() == Kind::Corrupt && error.chain().contains("meta.db"), "{}", error.chain());
}

#[test]
fn an_index_of_which_containerd_has_one_platform_is_imported_for_this_machine() {
    let (_dir, root) = golden();
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(&home.path().join("store")).unwrap();
    let containerd = Containerd::open(&root).unwrap().unwrap();
    let demo = containerd.images()[0].clone();
    let host = platform::host();
    let entry = |digest: &str, size: u64, architecture: &str| {
        json!({
            "mediaType": demo.media_type, "digest": digest, "size": size,
            "platform": { "os": "linux", "architecture": architecture },
        })
    };
    let missing = Digest::of(b"not pulled").to_string();
    let other = if host.architecture == "s390x" { "ppc64le" } else { "s390x" };
    let media_type = "application/vnd.oci.image.index.v1+json";
    let here = entry(&demo.target.to_string(), demo.size, &host.architecture);
    let index = json!({
        "schemaVersion": 2, "mediaType": media_type, "manifests": [entry(&missing, 7, other), here],
    });
    let bytes = serde_json::to_vec(&index).unwrap();
    let target = Digest::of(&bytes);
    std::fs::write(root.join(CONTENT).join("blobs/sha256").join(target.hex()), &bytes).unwrap();
    let image = Image {
        names: vec!["docker.io/library/multi:1".to_owned(), format!("docker.io/library/multi@{target}")],
        target,
        media_type: media_type.to_owned(),
        size: bytes.len() as u64,
    };
    assert_eq!(containerd.availability(&image, Some(&store)).unwrap(), Availability::Importable);
    containerd.import(&image, &store, &Silent).unwrap();
    assert_eq!(containerd.availability(&image, Some(&store)).unwrap(), Availability::Present);
    let record = store.find("multi:1").unwrap();
    assert_eq!(record.manifest, demo.target);
    assert_eq!(record.repo_digests, [format!("docker.io/library/multi@{target}")]);
}
