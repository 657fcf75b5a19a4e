//! Passes the order of the functions that a start executes to the linker, so that they are next to each other (see
//! benches/start-order), selects the linker, and passes the commit to the program.

use std::process::Command;

fn main() {
    let is = |name, value| std::env::var(name).is_ok_and(|v| v == value);
    println!("cargo:rerun-if-changed=src/start.ld");
    if is("CARGO_CFG_TARGET_OS", "linux") && is("PROFILE", "release") {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bin=coracle=-Wl,-T,{here}/src/start.ld");
    }
    // With over 16 MB of code, which a test build has, GNU ld 2.40 loses the Thumb bit of memcpy's resolver, and such
    // a program crashes before its main.
    if is("CARGO_CFG_TARGET_ARCH", "arm") && is("PROFILE", "debug") {
        println!("cargo:rustc-link-arg=-fuse-ld=gold");
    }
    println!("cargo:rustc-env=CORACLE_COMMIT={}", commit(is("PROFILE", "release")));
}

/// The value of `CORACLE_COMMIT`, or the commit that git reports. git is asked only for releases, because the whole
/// crate is recompiled when the commit changes.
fn commit(is_release: bool) -> String {
    println!("cargo:rerun-if-env-changed=CORACLE_COMMIT");
    if let Ok(commit) = std::env::var("CORACLE_COMMIT") {
        return commit;
    }
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok().filter(|output| output.status.success())?;
        String::from_utf8(output.stdout).ok().map(|text| text.trim().to_owned())
    };
    // Sources unpacked inside another project's repository do not belong to its commits.
    let is_ours = || git(&["rev-parse", "--show-prefix"]).is_some_and(|prefix| prefix.is_empty());
    if !is_release || !is_ours() {
        return "unknown".to_owned();
    }
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned())
}
