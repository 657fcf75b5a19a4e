//! Golden bytes: the repository contains what this release writes, so that a change of it fails a test.

use std::path::{Path, PathBuf};

use super::format::Format;
use crate::linux::private;

/// The environment variable that makes the test write missing files. It overwrites none.
const WRITE: &str = "CORACLE_SNAPSHOTS";

fn file(directory: &str, kind: &str, version: u16) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(directory).join(format!("{kind}.v{version}.golden"))
}

/// Compares samples in this version with the golden ones. The name of a sample is one word.
#[track_caller]
pub(crate) fn check(directory: &str, kind: &str, format: Format, samples: &[(&str, Vec<u8>)]) {
    let file = file(directory, kind, format.version);
    let written: String =
        samples.iter().map(|(name, bytes)| format!("{name} {}\n", bytes.escape_ascii())).collect();
    let golden = match std::fs::read_to_string(&file) {
        Err(_) if std::env::var_os(WRITE).is_some() => {
            private::make_dirs(file.parent().unwrap(), private::SHARED_DIR).unwrap();
            private::write(&file, &written, private::SHARED_FILE).unwrap();
            return;
        }
        Err(_) => panic!(
            "there are no golden bytes for version {} of {}: run the test once with {WRITE}=write and commit {}",
            format.version,
            format.name,
            file.display()
        ),
        Ok(golden) => golden,
    };
    let differs = written.lines().zip(golden.lines()).find(|(now, before)| now != before);
    assert!(
        written == golden,
        "what is written of {} changed, and its version is still {}: other releases would misread it.\n\
         Undo the change; or, when it is meant, raise the version in src/record/format.rs, keep reading version {} there, \
         leave {} as it is, and run this test with {WRITE}=write for a new file.\n\
         First difference (now, golden): {differs:#?}",
        format.name,
        format.version,
        format.version,
        file.display()
    );
}

/// The samples of a version in the repository.
#[track_caller]
pub(crate) fn samples(directory: &str, kind: &str, version: u16) -> Vec<(String, Vec<u8>)> {
    let text = std::fs::read_to_string(file(directory, kind, version)).unwrap();
    let sample = |line: &str| {
        let (name, escaped) = line.split_once(' ').unwrap();
        (name.to_owned(), unescape(escaped))
    };
    text.lines().map(sample).collect()
}

/// The inverse of [`slice::escape_ascii`].
fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next().unwrap() {
                b'n' => b'\n',
                b'r' => b'\r',
                b't' => b'\t',
                b'x' => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                other => other,
            },
            other => other,
        });
    }
    bytes
}

/// Calls a reader with every prefix of a sample, and with the sample under every other version: it must return an
/// error each time, which names an unknown version.
#[track_caller]
pub(crate) fn refuses_what_it_does_not_know(
    format: Format,
    sample: &[u8],
    read: impl Fn(&[u8]) -> Result<(), super::format::Unreadable>,
) {
    assert_eq!(read(sample), Ok(()));
    for length in 0..sample.len() {
        assert!(read(&sample[..length]).is_err(), "{length} bytes of {}", format.name);
    }
    for version in (0..=u16::MAX).filter(|version| !format.reads(*version)) {
        let mut other = sample.to_vec();
        other[2..4].copy_from_slice(&version.to_le_bytes());
        let error = read(&other).unwrap_err();
        assert!(error.is_of_another_release(), "{error}");
        assert!(error.to_string().contains(&format!("version {version} of {}", format.name)), "{error}");
    }
}

#[test]
fn golden_bytes_are_read_as_they_were_written() {
    let all: Vec<u8> = (0..=u8::MAX).collect();
    assert_eq!(unescape(&all.escape_ascii().to_string()), all);
}
