//! What we ship of others: licences, sources, duplicate versions and crates we have decided against.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use coracle::digest::Digest;
use serde_json::Value;

/// Licences that go with Apache-2.0.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CC0-1.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Crates with another licence: crate, licence, the reason it is all right.
const OTHER_LICENCES: &[(&str, &str, &str)] = &[
    (
        "pathrs",
        "MPL-2.0",
        "comes with libcontainer, unchanged; the MPL asks for the source of that crate alone",
    ),
    (
        "webpki-roots",
        "CDLA-Permissive-2.0",
        "Mozilla's list of authorities: data, which the licence lets one use and share",
    ),
    (
        "libbz2-rs-sys",
        "bzip2-1.0.6",
        "the licence of bzip2 itself, in the manner of BSD: keep the notice, mark changes, no endorsement",
    ),
    ("rust-criu", "", "names no licence but carries a LICENSE file, which is MIT; comes with libcontainer"),
];

/// Crates in more than one version: crate, how many, the reason. A row that is no longer true must go.
const DUPLICATES: &[(&str, usize, &str)] = &[
    ("base64", 2, "0.22 by tonic, 0.23 ours and hyper-util's"),
    ("bitflags", 2, "1.x by cgroups-rs's nix 0.25"),
    ("embedded-io", 2, "optional parts of postcard, in the lock file only: neither is built"),
    ("foldhash", 2, "follows hashbrown"),
    ("getrandom", 2, "0.2 by ring, 0.4 by tempfile"),
    ("hashbrown", 2, "0.15 by petgraph, of the code generator for api.proto: build time only"),
    ("linux-raw-sys", 2, "follows rustix"),
    ("nix", 3, "0.25 by cgroups-rs, 0.29 by libcontainer and libcgroups, 0.31 ours"),
    ("prettyplease", 2, "0.2 by prost-build, 0.3 by tonic-build: build time only"),
    ("rustix", 2, "0.38 by which 4, of protobuf's code generator in cgroups-rs: build time only"),
    (
        "syn",
        2,
        "2.x by derive_builder, getset, strum and enumflags2, 3.x by serde, clap and zbus: build time only",
    ),
    ("thiserror", 2, "1.x by cgroups-rs and protobuf, 2.x by libcontainer and oci-spec"),
    ("thiserror-impl", 2, "follows thiserror"),
];

/// Crates that must not come in: crate, the reason.
const DENIED: &[(&str, &str)] = &[
    (
        "tar",
        "its unpack resolves names as strings and has had traversal holes; we read and apply archives ourselves",
    ),
    ("tokio-tar", "abandoned, CVE-2025-62518"),
    ("async-tar", "CVE-2025-62518"),
    ("astral-tokio-tar", "async; and we read archives ourselves"),
    ("openssl", "ring is enough, and does not need a C library per target"),
    ("native-tls", "brings openssl"),
    ("aws-lc-sys", "size, and it does not build for armv7 here"),
    ("reqwest", "size; hyper does"),
    ("oci-client", "brings reqwest"),
    ("serde_yaml", "unmaintained"),
    ("atty", "unmaintained, RUSTSEC-2021-0145"),
    ("ansi_term", "unmaintained, RUSTSEC-2021-0139"),
    ("users", "unmaintained, RUSTSEC-2023-0059"),
    ("term_size", "unmaintained, RUSTSEC-2020-0163"),
    ("failure", "unmaintained, RUSTSEC-2020-0036"),
    ("lazy_static", "std::sync::LazyLock does"),
    ("structopt", "clap does"),
    ("instant", "unmaintained, RUSTSEC-2024-0384"),
    ("proc-macro-error", "unmaintained, RUSTSEC-2024-0370"),
    ("libseccomp", "needs a C library per target; seccompiler does"),
];

/// Crates that are in this repository with a change of ours: crate, licence, directory, patch, the file that it changes.
const CHANGED: &[(&str, &str, &str, &str, &str)] =
    &[("h2", "MIT", "cri/h2", "authority.patch", "src/server.rs")];

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn every_licence_is_allowed() {
    let foreign = packages().iter().filter(|p| p.source.is_some());
    let bad = foreign.filter(|p| !is_allowed(&p.licence) && !is_excused(p));
    let bad: Vec<_> = bad.map(|p| format!("{} {}: {:?}", p.name, p.version, p.licence)).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn every_crate_comes_from_crates_io() {
    let bad = packages().iter().filter(|p| p.source.as_deref().is_some_and(|source| source != CRATES_IO));
    let bad: Vec<_> = bad.map(|p| format!("{}: {:?}", p.name, p.source)).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn every_crate_in_this_repository_is_ours_or_has_a_known_licence() {
    for package in packages().iter().filter(|p| p.source.is_none() && !p.name.starts_with("coracle")) {
        let row = CHANGED.iter().find(|(name, ..)| *name == package.name);
        let (_, licence, ..) = row.unwrap_or_else(|| panic!("{} has no row in CHANGED", package.name));
        assert_eq!(package.licence, *licence);
        assert!(is_allowed(licence), "{licence}");
    }
}

/// Each file has the checksum of the release once the patch is undone, and there are no others.
#[test]
fn a_changed_crate_differs_from_its_release_by_its_patch_alone() {
    for (_, _, directory, patch, changed) in CHANGED {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap();
        let (old, new) = sides(&read(patch));
        let sums = read("SHA256SUMS");
        let known: BTreeMap<_, _> =
            sums.lines().filter_map(|l| l.split_once("  ")).map(|(s, n)| (n, s)).collect();
        for (name, sum) in &known {
            let mut text = read(name);
            if name == changed {
                assert_eq!(text.matches(&new).count(), 1, "{patch} is applied to {name}");
                text = text.replace(&new, &old);
            }
            assert_eq!(Digest::of(text.as_bytes()).hex(), *sum, "{name}");
        }
        let found = files_below(&directory.join("src"));
        let found = found.iter().map(|path| path.strip_prefix(&directory).unwrap().to_str().unwrap());
        assert_eq!(
            found.collect::<BTreeSet<_>>(),
            known.into_keys().filter(|name| *name != "LICENSE").collect()
        );
    }
}

/// What a patch of one hunk replaces, and by what.
fn sides(patch: &str) -> (String, String) {
    let lines: Vec<_> = patch.lines().skip_while(|line| !line.starts_with("@@")).skip(1).collect();
    let side = |other: char| -> String {
        lines.iter().filter(|line| !line.starts_with(other)).map(|line| format!("{}\n", &line[1..])).collect()
    };
    (side('+'), side('-'))
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn every_duplicate_version_has_a_reason_and_every_reason_a_duplicate() {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in packages() {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    let found: BTreeMap<_, _> =
        versions.into_iter().map(|(n, v)| (n, v.len())).filter(|(_, n)| *n > 1).collect();
    let argued: BTreeMap<_, _> = DUPLICATES.iter().map(|(name, count, _)| (*name, *count)).collect();
    assert_eq!(found, argued, "left: what the lock file has; right: what DUPLICATES argues for");
}

#[test]
fn no_denied_crate_comes_in() {
    let bad = packages().iter().filter_map(|p| DENIED.iter().find(|(name, _)| *name == p.name));
    let bad: Vec<_> = bad.collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn the_lock_file_pins_every_crate_by_checksum() {
    let lock = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock")).unwrap();
    let loose = lock.split("[[package]]").filter(|p| p.contains("source = ") && !p.contains("checksum = "));
    assert_eq!(loose.collect::<Vec<_>>(), [""; 0]);
}

#[test]
fn licence_expressions_are_read_with_their_logic() {
    for good in
        ["MIT", "GPL-3.0 OR MIT", "MIT/GPL-2.0", "(GPL-2.0 OR MIT) AND Unicode-3.0", "MIT AND (ISC OR X)"]
    {
        assert!(is_allowed(good), "{good}");
    }
    for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND GPL-3.0", "MITX", "Apache-2.0 WITH other"]
    {
        assert!(!is_allowed(bad), "{bad}");
    }
}

struct Package {
    name: String,
    version: String,
    licence: String,
    source: Option<String>,
}

/// Every crate that is built for Linux machines such as this one, tests included.
fn packages() -> &'static [Package] {
    static PACKAGES: LazyLock<Vec<Package>> = LazyLock::new(|| {
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let metadata = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "metadata",
                "--offline",
                "--locked",
                "--format-version",
                "1",
                "--filter-platform",
                &triple,
            ])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        assert!(metadata.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&metadata.stderr));
        read_packages(&serde_json::from_slice(&metadata.stdout).unwrap())
    });
    &PACKAGES
}

fn read_packages(metadata: &Value) -> Vec<Package> {
    let used: BTreeSet<_> = list(&metadata["resolve"]["nodes"]).iter().map(|n| text(&n["id"])).collect();
    let packages = list(&metadata["packages"]).iter().filter(|p| used.contains(&text(&p["id"])));
    let read = |p: &Value| Package {
        name: text(&p["name"]),
        version: text(&p["version"]),
        licence: text(&p["license"]),
        source: p["source"].as_str().map(str::to_owned),
    };
    let packages: Vec<_> = packages.map(read).collect();
    assert!(packages.len() > 50, "cargo metadata lists only {} packages", packages.len());
    packages
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn is_excused(package: &Package) -> bool {
    let row = OTHER_LICENCES.iter().find(|(name, ..)| *name == package.name);
    row.is_some_and(|(_, licence, _)| package.licence.split(" OR ").any(|l| l == *licence))
}

/// Whether an SPDX expression can be met with allowed licences: OR binds weaker than AND.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    split_outside(&expression, " OR ").iter().any(|choice| {
        split_outside(choice, " AND ").iter().all(|term| {
            let term = term.trim();
            let inner = term.strip_prefix('(').and_then(|t| t.strip_suffix(')'));
            inner.map_or_else(|| LICENCES.contains(&term), is_allowed)
        })
    })
}

/// Splits at a separator that is not inside parentheses.
fn split_outside<'a>(text: &'a str, separator: &str) -> Vec<&'a str> {
    let mut parts = Vec::new();
    let mut depth = 0_i32;
    let mut start = 0;
    for (at, c) in text.char_indices() {
        depth += i32::from(c == '(') - i32::from(c == ')');
        if depth == 0 && at >= start && text[at..].starts_with(separator) {
            parts.push(&text[start..at]);
            start = at + separator.len();
        }
    }
    parts.push(&text[start..]);
    parts
}
