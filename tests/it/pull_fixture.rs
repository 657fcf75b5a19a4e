//! A store and the way to a registry of the test's own, for the tests of `image pull`.
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use coracle::digest::Digest;
use coracle::error::{Error, Kind, Result};
use coracle::image::progress::{Outcome, Progress};
use coracle::image::pull::{PullOptions, Pulled, pull};
use coracle::image::registry::{RegistryOptions, Timing};
use coracle::store::reference::Reference;
use coracle::store::{ImageRecord, Store};

use super::image_fixture::{Image, Layout, Member, Pack, image, tar};
use super::support::registry::TestRegistry;

/// A store in a directory of its own, and nothing of the machine's own configuration.
pub(crate) struct Place {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
    pub(crate) options: PullOptions,
    pub(crate) heard: Heard,
}

/// What a pull said.
#[derive(Default)]
pub(crate) struct Heard {
    pub(crate) lines: Mutex<Vec<String>>,
}

impl Progress for Heard {
    fn begin(&self, _layer: &Digest, _size_bytes: u64) {}
    fn advance(&self, _layer: &Digest, _bytes: u64) {}

    fn end(&self, _layer: &Digest, outcome: Outcome) {
        self.lines.lock().unwrap().push(format!("{outcome:?}"));
    }

    fn warn(&self, text: &str) {
        self.lines.lock().unwrap().push(text.to_owned());
    }
}

impl Heard {
    pub(crate) fn text(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }
}

pub(crate) fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let auth_file = dir.path().join("auth.json");
    std::fs::write(&auth_file, "{}").unwrap();
    let registry = RegistryOptions {
        auth_file: Some(auth_file),
        hosts_dirs: vec![dir.path().join("certs.d")],
        registries_conf: dir.path().join("registries.conf"),
        k3s_registries: dir.path().join("registries.yaml"),
        timing: Timing {
            connect: Duration::from_secs(5),
            progress: Duration::from_millis(400),
            backoff: Duration::from_millis(5),
            tries: 4,
        },
        ..RegistryOptions::default()
    };
    let options = PullOptions { registry, ..PullOptions::default() };
    Place { dir, store, options, heard: Heard::default() }
}

impl Place {
    pub(crate) fn pull(&self, name: &str) -> Result<Pulled> {
        pull(&self.store, &Reference::parse(name).unwrap(), &self.options, &self.heard)
    }

    /// Pulls what must work.
    #[track_caller]
    pub(crate) fn pulled(&self, name: &str) -> ImageRecord {
        self.pull(name).unwrap().images.remove(0)
    }

    /// Pulls what must not work, and leaves nothing.
    #[track_caller]
    pub(crate) fn refused(&self, name: &str, kind: Kind, words: &str) -> Error {
        let error = self.pull(name).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        assert!(error.chain().contains(words), "{words:?} is not in {:?}", error.chain());
        self.assert_empty();
        error
    }

    /// Fails unless the store has nothing, on disk neither.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        assert!(self.store.images().unwrap().is_empty());
        for dir in ["tmp", "trash", "layers", "blobs/sha256"] {
            let left: Vec<_> = std::fs::read_dir(self.store.root().join(dir)).unwrap().collect();
            assert!(left.is_empty(), "{dir}: {left:?}");
        }
    }

    /// What the image's layers have at `path`.
    pub(crate) fn read(&self, image: &ImageRecord, path: &str) -> Option<Vec<u8>> {
        self.store.lower_dirs(image).iter().find_map(|dir| std::fs::read(dir.join(path)).ok())
    }

    /// Files in `partial/` and their lengths.
    pub(crate) fn partials(&self) -> Vec<(PathBuf, u64)> {
        let entries = std::fs::read_dir(self.store.root().join("partial")).unwrap();
        entries.map(|entry| entry.unwrap()).map(|e| (e.path(), e.metadata().unwrap().len())).collect()
    }

    pub(crate) fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

impl TestRegistry {
    /// Serves a layout.
    pub(crate) fn layout(&self, layout: &Layout, name: &str) -> String {
        self.serve(&layout.files, &layout.index, name)
    }

    /// Serves the usual small image.
    pub(crate) fn small(&self, name: &str) -> Layout {
        let layout = Layout::of(image("small"));
        self.layout(&layout, name);
        layout
    }

    /// Serves an image with one layer of this many random bytes in `data`; returns the layer's digest and these.
    pub(crate) fn big(&self, name: &str, bytes: usize) -> (String, Vec<u8>) {
        let data = noise(bytes);
        let layers = vec![tar(&[Member::File("data", &data)])];
        let layout = Layout::of(Image { layers, pack: Pack::Gzip, platform: "", name: None });
        self.layout(&layout, name);
        let digest = layout.layer(0).replace("blobs/sha256/", "sha256:");
        (digest, data)
    }
}

/// Bytes that do not compress.
pub(crate) fn noise(count: usize) -> Vec<u8> {
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let words = std::iter::from_fn(move || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        Some(word.to_le_bytes())
    });
    words.flatten().take(count).collect()
}
