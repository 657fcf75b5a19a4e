//! Broken bundles: each is refused with words that name the defect, and leaves nothing behind.
//!
//! Every folder of `oci-fixtures/broken/` holds a bundle with one defect, and in `expect` a phrase of the message.

use std::fs;

use crate::support::{Runtime, Sandbox, fixture, runtime_under_test};

/// What runc 1.1 lets pass.
const LENIENT_RUNC: &[&str] = &[
    "cgroup-path-escaping",
    "config-version-malformed",
    "config-version-missing",
    "config-version-unsupported",
    "device-access-unknown",
    "device-on-a-file",
    "masked-path-relative",
    "personality-unknown",
    "process-capability-unknown",
    "process-rlimit-twice",
    "seccomp-syscall-unknown",
    "time-offsets-without-namespace",
    "user-mappings-without-namespace",
];

#[test]
fn every_broken_bundle_is_refused_and_the_defect_named() {
    needs!(root, busybox, oci_verbs);
    not_by!(Crun: "it leaves some half-made containers behind");
    let mut cases: Vec<_> = fs::read_dir(fixture("broken")).unwrap().map(|e| e.unwrap().path()).collect();
    cases.sort();
    assert!(cases.len() > 50, "the fixtures are there");
    let names = cases.iter().filter(|p| p.is_dir()).map(|p| p.file_name().unwrap().to_str().unwrap());
    let complaints: Vec<_> = names.filter_map(complaint).collect();
    assert!(complaints.is_empty(), "{} of {}:\n{}", complaints.len(), cases.len(), complaints.join("\n"));
}

/// What is wrong with the answer to one broken bundle.
fn complaint(name: &str) -> Option<String> {
    if *runtime_under_test() == Runtime::Runc && LENIENT_RUNC.contains(&name) {
        return None;
    }
    let sandbox = Sandbox::new();
    let bundle = sandbox.broken_bundle(name);
    let output = sandbox.run(&bundle);
    let expect = fs::read_to_string(fixture("broken").join(name).join("expect")).unwrap();
    let said = output.stderr.contains(expect.trim()) || !sandbox.runtime_kind().is_ours();
    let left = sandbox.traces();
    let wrong = if output.code() == Some(0) || output.stdout.contains("the payload ran") {
        "was not refused".to_owned()
    } else if !said {
        format!("does not say {:?}", expect.trim())
    } else if !left.is_empty() {
        format!("left {left:?}")
    } else {
        return None;
    };
    Some(format!("{name}: {wrong}: exit {:?}: {}", output.code(), output.stderr.trim()))
}
