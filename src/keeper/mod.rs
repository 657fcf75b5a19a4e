//! The keeper: the one parent of a node's containers. A single thread in an event loop, which blocks nowhere until it ends or
//! hands over to another keeper.
//!
//! ```text
//! client (serve, launch -d) --SOCK_SEQPACKET: plan + descriptors--> keeper --clone--> launcher --CLONE_PARENT--> init
//!     <- pid and pidfd; sets the child up from outside, runs hooks, sends Keep      |
//!                                                      container's FIFOs or pty --> log file, attached clients
//!                                                      pidfd --> exit file, command, clients that wait
//! ```
//!
//! | room | holds |
//! |---|---|
//! | `protocol` | the messages, and how they are framed |
//! | `client` | the client's side of a connection, and launches by the keeper |
//! | `event_loop` | the keeper while it serves: containers, clients, launches, logs; `life` is a container's life as a table |
//! | `takeover` | the keeper's end, and what it leaves: re-execution, standby, successor, systemd's store |
//! | `start` | the command line |
//!
//! `protocol` knows none of the others, and of the rest each only those above it.

/// The file in the run directory whose lock the keeper holds.
const LOCK: &str = "keeper.lock";

/// The environment variable in which an exit command finds the container's first process: its pid, and its start time in
/// clock ticks since boot. The container's name may be another's by the time the command runs.
pub const ENDED_PROCESS: &str = "CORACLE_ENDED_PROCESS";

mod cgroup;
pub mod client;
mod event_loop;
mod notify;
mod own_log;
mod pod_init;
mod program;
mod protocol;
mod start;
mod takeover;

pub use notify::{FIRST_HANDED_OVER, handed_over, notify};
pub use pod_init::POD_INIT;
pub use program::is_called_as_keeper;
pub use protocol::{Frame, MOST_DATA, Order, Stdin, Stream, Terms};
pub use start::{RUN, USAGE, main};
