//! Hostile layers: each description in `oci-fixtures/attacks` is built, applied, and must end exactly as it says, with
//! everything outside the layer's directory untouched.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says what went wrong by failing"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use coracle::image::layer::{Limits, apply_and_prove};
use serde::Deserialize;

use crate::layer_tar::{Member, described, snapshot, tar};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attack {
    /// What it would do to a naive unpacker, and where it is from.
    #[expect(dead_code, reason = "for the reader of the description")]
    shows: String,
    members: Vec<Member>,
    /// A piece of the error that must come; none when the layer is to be applied.
    #[serde(default)]
    error: Option<String>,
    /// What must stand in the layer afterwards, by path; `described` says how.
    #[serde(default)]
    tree: BTreeMap<String, String>,
    /// A piece of a warning that must be given.
    #[serde(default)]
    warning: Option<String>,
}

fn attacks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oci-fixtures/attacks")
}

/// A place with a victim beside the layer's directory.
struct Scene {
    dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let victim = dir.path().join("victim");
        fs::create_dir_all(victim.join("sub")).unwrap();
        fs::write(victim.join("secret"), "untouched").unwrap();
        fs::write(victim.join("sub/secret"), "untouched").unwrap();
        fs::create_dir(dir.path().join("layer")).unwrap();
        Self { dir }
    }

    fn layer(&self) -> PathBuf {
        self.dir.path().join("layer")
    }

    fn victim(&self) -> PathBuf {
        self.dir.path().join("victim")
    }

    /// `{victim}` in names and targets is where the victim stands.
    fn aimed(&self, mut members: Vec<Member>) -> Vec<Member> {
        let victim = self.victim().to_str().unwrap().to_owned();
        let aim = |text: &mut String| *text = text.replace("{victim}", &victim);
        for member in &mut members {
            aim(&mut member.name);
            aim(&mut member.link);
            member.pax.iter_mut().for_each(|(_, value)| aim(value));
        }
        members
    }
}

fn run(name: &str) {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: attacks need root, for owners and devices");
        return;
    }
    let text = fs::read_to_string(attacks().join(format!("{name}.json"))).unwrap();
    let attack: Attack = serde_json::from_str(&text).unwrap();
    let scene = Scene::new();
    let before = snapshot(&scene.victim());
    let stream = tar(&scene.aimed(attack.members));
    let record = tempfile::NamedTempFile::new().unwrap();
    let result = apply_and_prove(&stream[..], &scene.layer(), record.path(), &Limits::default());

    assert_eq!(snapshot(&scene.victim()), before, "{name}: something outside the layer was touched");
    let beside: Vec<_> = fs::read_dir(scene.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "{name}: something was made beside the layer: {beside:?}");
    assert!(!Path::new("/coracle-escaped").exists(), "{name}: something was made in the host's root");
    match (result, &attack.error) {
        (Err(error), Some(piece)) => {
            assert!(error.chain().contains(piece.as_str()), "{name}: {}", error.chain())
        }
        (Ok(_), Some(piece)) => panic!("{name}: applied, but should fail with {piece:?}"),
        (Err(error), None) => panic!("{name}: {}", error.chain()),
        (Ok(applied), None) => {
            if let Some(piece) = &attack.warning {
                assert!(applied.warnings.iter().any(|w| w.contains(piece)), "{name}: {:?}", applied.warnings);
            }
        }
    }
    for (path, want) in &attack.tree {
        let path = scene.aimed(vec![Member::new("file", path)]).remove(0).name;
        let is = described(&scene.layer().join(path.trim_start_matches('/')));
        let same = want.strip_suffix('$').map_or_else(|| is.starts_with(want.as_str()), |all| is == all);
        assert!(same, "{name}: {path} is {is}, not {want}");
    }
}

macro_rules! attacks {
    ($($name:ident)*) => {
        $(#[test] fn $name() { run(&stringify!($name).replace('_', "-")); })*

        #[test]
        fn every_description_has_its_test() {
            let mut files: Vec<String> = fs::read_dir(attacks())
                .unwrap()
                .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix(".json")?.to_owned()))
                .collect();
            files.sort();
            let mut tests = vec![$(stringify!($name).replace('_', "-")),*];
            tests.sort();
            assert_eq!(files, tests);
        }
    };
}

attacks! {
    absolute_name
    char_zero_zero
    cve_2021_32760_chmod_through_hard_link
    cve_2025_58183_huge_pax_sparse_map
    cve_2025_58183_huge_sparse_map
    cve_2025_62518_pax_size_bigger
    cve_2025_62518_pax_size_smaller
    cve_2026_32766_malformed_pax
    cve_2026_33056_directory_swapped_for_symlink
    cve_2026_33056_parent_swapped_for_symlink
    cve_2026_50163_hard_link_by_working_directory
    device_number_overflow
    dotdot_hard_link
    dotdot_name
    file_over_device
    file_over_fifo
    file_over_whiteout
    hard_link_through_deep_symlink
    hard_link_through_symlink
    hard_link_to_host_file
    opaque_through_symlink
    overlay_xattr
    pax_across_long_name
    root_is_a_symlink
    symlink_chain
    symlink_directory_again
    symlink_loop
    symlink_then_write_below
    symlink_then_write_deep
    symlink_then_write_over
    two_names
    unknown_type
    whiteout_of_dot
    whiteout_of_nothing
    whiteout_of_parent
    whiteout_through_deep_symlink
    whiteout_through_symlink
}
