//! Images that are named by the digest of the index that leads to them.

use std::io::Cursor;

use coracle::image::import::{ImportOptions, Source, import, open_source};
use coracle::image::platform;
use coracle::image::progress::Silent;
use coracle::store::Store;
use serde_json::json;

use super::image_fixture::{Image, Layout, Member, Pack, sha, tar};

/// What `ctr export` writes: the name has the digest of the index that leads to the image.
#[test]
fn an_image_named_by_the_digest_of_its_index_is_found_and_removed_by_that_name() {
    let mut layout = Layout::new();
    let layer = tar(&[Member::File("a", b"a")]);
    let inner = layout.manifest(&Image {
        layers: vec![layer],
        pack: Pack::Gzip,
        platform: "linux/arm64",
        name: None,
    });
    let own = inner["digest"].as_str().unwrap().to_owned();
    let index_type = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": index_type, "manifests": [inner]});
    let entry = layout.blob(index_type, serde_json::to_vec(&index).unwrap());
    let digest = entry["digest"].as_str().unwrap().to_owned();
    let lie = sha(b"another index");
    let (app, tagged) = ("docker.io/library/app", ["docker.io/library/app:1"]);
    let none: [&str; 0] = [];
    for (name, names, is_found) in [
        (format!("{app}@{digest}"), &none[..], true),
        (format!("{app}:1@{digest}"), &tagged, true),
        (format!("app:1@{digest}"), &tagged, true),
        (format!("{app}:1@{own}"), &tagged, true),
        (format!("{app}:1"), &tagged, true),
        (format!("{app}:1@{lie}"), &tagged, false),
        (format!("{app}@{lie}"), &none, false),
    ] {
        let mut layout = layout.clone();
        let mut entry = entry.clone();
        entry["annotations"] = json!({"io.containerd.image.name": name});
        layout.entries().push(entry);
        for is_stream in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let store = Store::open(&dir.path().join("store")).unwrap();
            let platform = Some(platform::parse("linux/arm64").unwrap());
            let options = ImportOptions { platform, ..ImportOptions::default() };
            let image = match is_stream {
                false => {
                    layout.write(&dir.path().join("layout"));
                    import(&store, open_source(&dir.path().join("layout")).unwrap(), &options, &Silent)
                }
                true => {
                    let source = Source::stream(Cursor::new(layout.tar(true)), Some("archive".to_owned()));
                    import(&store, source, &options, &Silent)
                }
            };
            let image = image.unwrap().remove(0);
            assert_eq!(image.names, names, "{name}");
            assert_eq!(store.find(&format!("{app}@{digest}")).unwrap(), image, "{name}");
            assert!(store.find(&format!("{app}@{lie}")).is_err(), "{name}");
            for shown in image.names.iter().chain(&image.repo_digests) {
                assert_eq!(store.find(shown).unwrap(), image, "{shown}");
            }
            let removed = store.remove(std::slice::from_ref(&name));
            assert_eq!(removed.is_ok(), is_found, "{name}: {removed:?}");
            assert_eq!(store.images().unwrap().is_empty(), is_found, "{name}");
        }
    }
}
