//! Any index, manifests and configurations as an archive to import: refused, or an image that the store reads back
//! whole. Run as root.
//!
//! The input is cut at lines of `%%`: the index, then blobs. `@3` in one of these stands for the digest of the third
//! blob behind it, `#3` for its size, so that what is mutated still hangs together.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use coracle::error::Kind;
use coracle::image::digest::Digest;
use coracle::image::import::{ImportOptions, Source, import};
use coracle::image::layer::Limits;
use coracle::image::platform;
use coracle::image::progress::Silent;
use coracle::store::Store;
use libfuzzer_sys::fuzz_target;

static STORE: OnceLock<Store> = OnceLock::new();
const MOST_BLOBS: usize = 9;
const CUT: &[u8] = b"\n%%\n";

fn store() -> &'static Store {
    STORE.get_or_init(|| {
        let dir: PathBuf = std::env::temp_dir().join(format!("coracle-fuzz-image-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Store::open(&dir).unwrap()
    })
}

/// The blobs, each with what it says of those behind it filled in; the index first.
fn filled(input: &[u8]) -> Vec<Vec<u8>> {
    let mut pieces: Vec<&[u8]> = Vec::new();
    let mut left = input;
    while let Some(at) = left.windows(CUT.len()).position(|window| window == CUT)
        && pieces.len() < MOST_BLOBS
    {
        pieces.push(&left[..at]);
        left = &left[at + CUT.len()..];
    }
    pieces.push(left);
    let mut blobs: Vec<Vec<u8>> = Vec::new();
    for piece in pieces.iter().rev() {
        let mut out = Vec::with_capacity(piece.len() + 64);
        let mut rest = piece.iter();
        while let Some(byte) = rest.next() {
            let number = rest.as_slice().first().filter(|next| (b'1'..=b'9').contains(next));
            let nth = number.and_then(|number| blobs.iter().rev().nth(usize::from(number - b'1')));
            match (byte, nth) {
                (b'@', Some(blob)) => out.extend(Digest::of(blob).to_string().bytes()),
                (b'#', Some(blob)) => out.extend(blob.len().to_string().bytes()),
                _ => {
                    out.push(*byte);
                    continue;
                }
            }
            rest.next();
        }
        blobs.push(out);
    }
    blobs.reverse();
    blobs
}

fn member(archive: &mut Vec<u8>, name: &str, data: &[u8]) {
    let mut block = [0u8; 512];
    block[..name.len()].copy_from_slice(name.as_bytes());
    block[100..108].copy_from_slice(b"0000644\0");
    block[124..136].copy_from_slice(format!("{:011o}\0", data.len()).as_bytes());
    block[148..156].fill(b' ');
    block[156] = b'0';
    block[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(block);
    archive.extend(data);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fuzz_target!(|input: &[u8]| {
    let Some((first, rest)) = input.split_first() else { return };
    let blobs = filled(rest);
    let mut archive = Vec::new();
    member(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    // The index of a layout, or the manifest.json of docker.
    member(&mut archive, if *first == b'd' { "manifest.json" } else { "index.json" }, &blobs[0]);
    for blob in &blobs[1..] {
        member(&mut archive, &format!("blobs/sha256/{}", Digest::of(blob).hex()), blob);
    }
    archive.resize(archive.len() + 1024, 0);
    let store = store();
    let options = ImportOptions {
        platform: Some(platform::parse("linux/arm64").unwrap()),
        limits: Limits { entries: 50, bytes: 1 << 16, ..Limits::default() },
        ..ImportOptions::default()
    };
    let source = Source::stream(std::io::Cursor::new(archive), Some("fuzz".to_owned()));
    match import(store, source, &options, &Silent) {
        Err(error) => {
            assert_ne!(error.kind(), Kind::Bug, "{}", error.chain());
            assert!(store.images().unwrap().is_empty());
        }
        Ok(images) => {
            let mut findings = Vec::new();
            store.verify(&images, &mut |finding| findings.push(finding.clone())).unwrap();
            assert!(findings.is_empty(), "{findings:?}");
            let ids: Vec<String> = images.iter().map(|image| image.id.to_string()).collect();
            store.remove(&ids).unwrap();
            assert!(store.images().unwrap().is_empty());
        }
    }
});
