//! Any text as a CDI file: the device it is asked for is not there, or the runtime configuration that comes of it can be
//! written and read.
#![no_main]

use std::path::PathBuf;

use coracle::pod::cdi::inject_from;
use libfuzzer_sys::fuzz_target;

thread_local! {
    static DIRECTORY: tempfile::TempDir = tempfile::tempdir().unwrap();
}

fuzz_target!(|bytes: &[u8]| {
    DIRECTORY.with(|directory| {
        let directory: PathBuf = directory.path().to_owned();
        std::fs::write(directory.join("a.yaml"), bytes).unwrap();
        let mut spec = coracle::spec::template::spec().unwrap();
        if inject_from(&[directory], &["acme.com/tpu=0".to_owned()], &mut spec).is_ok() {
            let text = serde_json::to_string(&spec).expect("a configuration can be written");
            serde_json::from_str::<serde_json::Value>(&text).expect("what was written can be read");
        }
    });
});
