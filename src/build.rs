//! Tells the linker which functions a start executes, so that they lie side by side: see benches/start-order; and which
//! linker to be.

fn main() {
    let is = |name, value| std::env::var(name).is_ok_and(|v| v == value);
    println!("cargo:rerun-if-changed=src/start.ld");
    if is("CARGO_CFG_TARGET_OS", "linux") && is("PROFILE", "release") {
        let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        println!("cargo:rustc-link-arg-bin=coracle=-Wl,-T,{here}/src/start.ld");
    }
    // With over 16 MB of code, which takes a build for tests, GNU ld 2.40 loses the Thumb bit of memcpy's resolver, and
    // such a program dies before its main.
    if is("CARGO_CFG_TARGET_ARCH", "arm") && is("PROFILE", "debug") {
        println!("cargo:rustc-link-arg=-fuse-ld=gold");
    }
}
