//! What the integration tests stand on: sandboxes that leave nothing behind, commands that cannot hang, bundles
//! copied from `oci-fixtures/`, and needs that are declared instead of assumed.

#[macro_use]
mod needs;
mod bundle;
mod command;
#[path = "../../../cri/tests/wire/connection.rs"]
pub(crate) mod connection;
mod console;
mod leftovers;
mod pods;
mod programs;
#[path = "../../../cri/tests/wire/raw.rs"]
pub(crate) mod raw;
pub(crate) mod registry;
mod runtime;
mod sandbox;
mod serve;
pub(crate) mod set_up;
#[path = "../../../cri/tests/wire/stream_client.rs"]
pub(crate) mod stream_client;
mod wait;

pub(crate) use bundle::{Bundle, fixture};
pub(crate) use command::{Output, Run};
pub(crate) use console::{ConsoleSocket, read_terminal};
pub(crate) use leftovers::Leftover;
pub(crate) use needs::{missing, skip};
pub(crate) use pods::{code, container, namespaces_of, pod_on_host, pod_with};
pub(crate) use programs::{are_dist_builds, copy_program, coracle_program, keeper_program};
pub(crate) use runtime::{Runtime, runtime_under_test};
pub(crate) use sandbox::Sandbox;
pub(crate) use serve::Serve;
pub(crate) use wait::{kernel_tells_ends, wait_until};
