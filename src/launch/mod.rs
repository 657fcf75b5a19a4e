//! Spawning containers and exec processes: plan, then apply.
//!
//! A configuration becomes a [`plan::Plan`], which is data: a flat list of [`steps::Step`]s with everything
//! precomputed. [`apply::spawn`] clones one process into its namespaces and its cgroup; that process executes the
//! steps ([`init`]) and then the payload. A container's first process and an exec are two lists of the same kinds of
//! step.
//!
//! ```text
//! Spec + facts --plan--> Plan --prepare--> descriptors --spawn--> child: init::run ... execve
//!                                                          |  ^ socket pair: ready, hooks, failed step + errno
//!                                                          v  |
//!                                                        parent: maps, cgroup, hooks, state
//! ```

pub mod apply;
mod cgroup_mount;
mod check;
pub mod deadline;
mod describe;
mod devices;
mod explain;
#[cfg(test)]
mod exposure;
pub mod hooks;
mod init;
mod listener;
mod mounts;
pub mod namespaces;
mod opens;
pub mod plan;
mod portable;
pub mod prepare;
mod process;
mod procfs;
pub mod request;
pub mod self_protect;
pub mod steps;
#[cfg(test)]
mod tests;
mod text;
pub(crate) mod toolbox;
pub mod wire;

pub use explain::NotExecuted;
pub use mounts::MOUNT_OPTIONS;
