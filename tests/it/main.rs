//! The one integration test binary: what a user sees of `coracle`.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[macro_use]
mod support;

mod board;
mod budget;
mod cgroup;
mod cgroup_v1;
mod cgroup_v2;
mod cli;
mod cve;
mod fallbacks;
mod fixtures;
mod harness;
mod hostile;
mod image_attacks;
mod image_cli;
mod image_export;
mod image_fixture;
mod image_full_disk;
mod image_import;
mod image_power_cut;
mod image_sandbox;
mod image_tools;
mod image_verify;
mod keeper;
mod keeper_attach;
mod keeper_survival;
mod launch;
mod launch_flags;
mod launch_terminal;
mod layer_attacks;
mod layer_memory;
mod layer_oracle;
mod layer_semantics;
mod layer_tar;
mod layering;
mod net;
mod oci_broken;
mod oci_cgroups;
mod oci_console;
mod oci_exec;
mod oci_hooks;
mod oci_lifecycle;
mod oci_mounts;
mod oci_process;
mod oci_run;
mod pods;
mod pods_network;
mod pods_survival;
mod pull;
mod pull_auth;
mod pull_budget;
mod pull_cli;
mod pull_faults;
mod pull_fixture;
mod pull_places;
mod pull_signed;
mod seccomp;
mod serve;
mod serve_images;
mod supply;
mod systemd;
mod v2_limits;
