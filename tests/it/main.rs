//! The one integration test binary: what a user sees of `coracle`.
mod seccomp;
