//! cgroup
pub mod devices;
pub mod filter;
