//! What only a board, or a guest that stands for one, can show: power that the usual test machine lacks, and programs
//! of another word size.

use std::fs;

use serde_json::json;

use crate::support::Sandbox;

#[test]
fn the_oom_score_is_lowered() {
    needs!(root, busybox, oci_verbs, sys_resource);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("oom-score-adj").with("/process/oomScoreAdj", json!(-500));
    assert_eq!(sandbox.run(&bundle.script("cat /proc/self/oom_score_adj")).ok().text(), "-500");
}

#[test]
fn a_hard_limit_is_raised_above_the_callers() {
    needs!(root, busybox, oci_verbs, sys_resource);
    let sandbox = Sandbox::new();
    let limit = json!([{ "type": "RLIMIT_NOFILE", "hard": 4096, "soft": 2048 }]);
    let bundle = sandbox.bundle("minimal").with("/process/rlimits", limit);
    let bundle = bundle.script("ulimit -Sn; ulimit -Hn");
    let run = sandbox.prepare_script("ulimit -n 512; exec \"$@\"", ["run", "--bundle"]);
    assert_eq!(run.arg(bundle.path()).arg(sandbox.id("run")).go().ok().stdout, "2048\n4096\n");
}

#[test]
fn a_32_bit_payload_runs_beneath_its_own_part_of_the_filter() {
    needs!(root, busybox, oci_verbs, seccomp, arm32_busybox);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("seccomp-errno");
    fs::copy(ARM32_BUSYBOX, bundle.root().join("bin/busybox")).unwrap();
    // The fifth byte of an ELF file tells its word size: 1 is 32 bits.
    let script = "od -An -tu1 -j4 -N1 /proc/self/exe; uname -m; mkdir /tmp/x; touch /tmp/y && echo touched";
    let bundle = bundle.script(script).with("/root/readonly", json!(false));
    let output = sandbox.run(&bundle).ok();
    let words: Vec<&str> = output.stdout.split_whitespace().collect();
    assert_eq!(words.first(), Some(&"1"), "{output}");
    assert_eq!(words.last(), Some(&"touched"), "{output}");
    assert!(output.stderr.contains("not supported"), "mkdir was to fail with EOPNOTSUPP: {output}");
}

#[test]
fn a_32_bit_payload_of_an_architecture_that_the_filter_does_not_name_is_ended() {
    needs!(root, busybox, oci_verbs, seccomp, arm32_busybox);
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("seccomp-errno");
    fs::copy(ARM32_BUSYBOX, bundle.root().join("bin/busybox")).unwrap();
    let bundle = bundle.with("/linux/seccomp/architectures", json!(["SCMP_ARCH_AARCH64"])).script("echo ran");
    let output = sandbox.run(&bundle).fails();
    assert_eq!(output.stdout, "");
}

/// A static busybox for 32-bit arm on an arm64 machine, where guests have it.
pub(crate) const ARM32_BUSYBOX: &str = "/usr/lib/arm32/busybox";
