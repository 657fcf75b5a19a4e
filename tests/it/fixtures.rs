//! The fixtures are what their READMEs say they are.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;
use serde_json::Value;

use crate::support::{Run, Sandbox, fixture};

/// The folders inside one folder of `oci-fixtures/`.
fn cases(folder: &str) -> Vec<PathBuf> {
    let list = fs::read_dir(fixture(folder)).into_iter().flatten().flatten().map(|e| e.path());
    let mut cases: Vec<_> = list.filter(|p| p.is_dir()).collect();
    cases.sort();
    cases
}

#[test]
fn every_bundle_is_a_valid_spec() {
    let bundles = cases("bundles");
    assert!(!bundles.is_empty());
    for bundle in bundles {
        let spec = Spec::load(bundle.join("config.json"));
        assert!(spec.is_ok(), "{}: {spec:?}", bundle.display());
    }
}

#[test]
fn every_broken_bundle_says_what_its_message_must_hold() {
    let broken = cases("broken");
    assert!(broken.len() > 50);
    for case in broken {
        let expect = fs::read_to_string(case.join("expect")).unwrap();
        assert!(!expect.trim().is_empty() && expect.lines().count() == 1, "{}", case.display());
    }
}

#[test]
fn the_hello_image_is_remade_bit_for_bit() {
    needs!(python3);
    let sandbox = Sandbox::new();
    let remade = sandbox.path("images");
    fs::create_dir(&remade).unwrap();
    Run::new(fixture("images/make")).arg(&remade).go().ok();
    let committed = files(&fixture("images/hello"));
    assert_eq!(committed.keys().collect::<Vec<_>>(), files(&remade.join("hello")).keys().collect::<Vec<_>>());
    assert!(committed == files(&remade.join("hello")), "same files, other bytes");
}

#[test]
fn every_blob_of_the_hello_image_is_named_by_its_digest() {
    for (path, bytes) in files(&fixture("images/hello/blobs/sha256")) {
        let digest = coracle::digest::Digest::of(&bytes).hex();
        assert_eq!(path.to_str(), Some(digest.as_str()));
    }
}

#[test]
fn the_hello_program_greets_on_its_own_platform() {
    needs!(amd64);
    greets("amd64", None, "linux/amd64");
}

#[test]
fn the_hello_program_greets_on_the_other_platforms() {
    needs!(qemu_user);
    greets("arm64", Some("qemu-aarch64-static"), "linux/arm64");
    greets("arm", Some("qemu-arm-static"), "linux/arm/v7");
}

#[test]
fn the_hello_image_launches_from_its_layout() {
    needs!(root, launch_verb);
    let sandbox = Sandbox::new();
    let layout = fixture("images/hello");
    let output = sandbox.coracle([std::ffi::OsStr::new("launch"), layout.as_os_str()]).ok();
    assert!(output.stdout.starts_with("Hello from a container!\n"), "{output}");
    output.has_line("  process id  1");
}

fn greets(arch: &str, emulator: Option<&str>, platform: &str) {
    let sandbox = Sandbox::new();
    let program = sandbox.path("hello");
    fs::write(&program, hello_program(arch)).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let run = || emulator.map_or_else(|| Run::new(&program), |name| Run::new(name).arg(&program));
    let greeting = run().go().ok().stdout;
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert!(greeting.starts_with("Hello from a container!\n"), "{greeting}");
    assert!(greeting.contains(&format!("  platform    {platform}\n")), "{greeting}");
    assert!(greeting.contains(&format!("  host name   {}\n", host.trim())), "{greeting}");
    let pid = greeting.lines().find_map(|line| line.strip_prefix("  process id  ")).unwrap();
    assert!(pid.parse::<u32>().is_ok_and(|pid| pid > 0), "{greeting}");
}

/// The one file of the layer for an architecture, taken out by following the layout as a reader would.
fn hello_program(arch: &str) -> Vec<u8> {
    let layout = fixture("images/hello");
    let json = |path: PathBuf| serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap();
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        layout.join("blobs").join(digest.replace(':', "/"))
    };
    let index = json(blob(&json(layout.join("index.json"))["manifests"][0]));
    let manifests = index["manifests"].as_array().unwrap();
    let manifest = manifests.iter().find(|m| m["platform"]["architecture"] == arch).unwrap();
    let layer = blob(&json(blob(manifest))["layers"][0]);
    let mut archive = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(layer).unwrap()).read_to_end(&mut archive).unwrap();
    let size = std::str::from_utf8(&archive[124..135]).unwrap();
    let size = usize::from_str_radix(size, 8).unwrap();
    archive[512..512 + size].to_vec()
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(dir) = folders.pop() {
        for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    assert!(!found.is_empty(), "nothing in {}", folder.display());
    found
}
