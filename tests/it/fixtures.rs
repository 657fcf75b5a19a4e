//! The fixtures are what their READMEs say they are.

use std::fs;

use oci_spec::runtime::Spec;

use crate::support::fixture;

/// The folders inside one folder of `oci-fixtures/`.
fn cases(folder: &str) -> Vec<std::path::PathBuf> {
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
