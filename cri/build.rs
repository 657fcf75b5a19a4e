//! Compiles `proto/api.proto`, with protox in the place of a protoc that the machine may not have.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto/api.proto");
    let files = protox::compile(["proto/api.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Ordered maps: equal requests then have equal bytes, and answers do not depend on chance.
        .btree_map(".")
        // Its Debug is ours: passwords stay out of logs.
        .skip_debug(["runtime.v1.AuthConfig"])
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
