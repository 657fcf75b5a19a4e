//! The one integration test binary: what a user sees of `coracle`.

mod layer_attacks;
mod layer_memory;
mod layer_oracle;
mod layer_semantics;
mod layer_tar;
