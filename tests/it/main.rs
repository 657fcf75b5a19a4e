//! The one integration test binary: what a user sees of `coracle`.
mod seccomp;

mod image_cli;
mod image_fixture;
mod image_full_disk;
mod image_import;
mod image_power_cut;
mod image_tools;
mod layer_attacks;
mod layer_memory;
mod layer_oracle;
mod layer_semantics;
mod layer_tar;
