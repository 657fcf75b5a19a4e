//! Any bytes as a layer: the applier puts nothing outside its directory; what it accepts, it has recorded so well that the
//! tree passes the check and the tar comes out again.
//!
//! Run as root, in a directory on a file system that takes `trusted.` attributes.
#![no_main]

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use coracle::error::Kind;
use coracle::image::layer::{Limits, apply_and_prove};
use libfuzzer_sys::fuzz_target;

thread_local! {
    /// A directory with something beside the layer that no layer may touch.
    static PLACE: OnceCell<PathBuf> = const { OnceCell::new() };
}

fn place() -> PathBuf {
    PLACE.with(|place| {
        place
            .get_or_init(|| {
                let dir = std::env::temp_dir().join(format!("coracle-fuzz-{}", std::process::id()));
                let _ = std::fs::remove_dir_all(&dir);
                std::fs::create_dir_all(dir.join("outside")).unwrap();
                std::fs::write(dir.join("outside/file"), "untouched").unwrap();
                dir
            })
            .clone()
    })
}

fn check_outside(dir: &Path) {
    assert_eq!(std::fs::read(dir.join("outside/file")).unwrap(), b"untouched");
    assert_eq!(std::fs::read_dir(dir.join("outside")).unwrap().count(), 1);
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    assert!(names.into_iter().all(|name| ["outside", "layer", "files.idx"].contains(&name.to_str().unwrap())));
}

fuzz_target!(|bytes: &[u8]| {
    let dir = place();
    let layer = dir.join("layer");
    let _ = std::fs::remove_dir_all(&layer);
    std::fs::create_dir(&layer).unwrap();
    let limits = Limits { entries: 200, bytes: 1 << 20, ..Limits::default() };
    let result = apply_and_prove(bytes, &layer, &dir.join("files.idx"), &limits);
    check_outside(&dir);
    if let Err(error) = result {
        assert_ne!(error.kind(), Kind::Bug, "{}", error.chain());
    }
});
