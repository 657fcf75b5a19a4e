//! Coracle: a container runtime for constrained devices.
//!
//! The modules below are in layer order: each uses only modules above it (`tests/it/layering.rs` has the table and
//! fails when a `use` breaks it).

#[expect(
    unsafe_code,
    reason = "the only module with unsafe code: system calls without a safe wrapper; each block states its invariant"
)]
pub mod sys;

pub mod digest;
pub mod error;
pub mod id;
pub mod linux;
pub mod log;
pub mod undo;
#[cfg(feature = "node")]
pub mod yaml;

pub mod cgroup;
pub mod record;
pub mod seccomp;

pub mod launch;
pub mod spec;
#[cfg(feature = "node")]
pub mod store;

#[cfg(feature = "node")]
pub mod image;
#[cfg(feature = "node")]
pub mod keeper;
#[cfg(feature = "node")]
pub mod net;
pub mod oci;

#[cfg(feature = "node")]
pub mod pod;

#[cfg(feature = "node")]
pub mod serve;

#[cfg(feature = "node")]
pub mod check;
#[cfg(feature = "node")]
pub mod status;
#[cfg(feature = "node")]
pub mod switch;

pub mod cli;
