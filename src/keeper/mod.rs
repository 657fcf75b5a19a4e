//! The keeper: the one parent of a node's containers. A single thread in a poll loop; until it ends or gives way to another,
//! it blocks nowhere, and it has no timer but for launches that are not decided.
//!
//! ```text
//! client (serve, launch -d) --SOCK_SEQPACKET: plan + descriptors--> keeper --clone--> launcher --CLONE_PARENT--> init
//!     <- pid and pidfd; sets the child up from outside, runs hooks, says Keep       |
//!                                                      container's FIFOs or pty --> log file, attached clients
//!                                                      pidfd --> exit file, command, those who wait
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `machine` | a container's life as a table |
//! | `poll` | the loop |
//! | `container` | a container, and the actions of the table |
//! | `clients`, `wire`, `client` | the keeper's side of a connection, the messages, the client's side |
//! | `birth` | launching |
//! | `stream`, `log` | what containers write |
//! | `record` | the run directory |
//! | `cgroup` | a cgroup of its own |
//! | `timer` | what is looked at though nothing has happened |
//! | `standby` | who takes over when the keeper is killed |
//! | `succession` | giving way to a keeper that is to replace this one |
//! | `notify`, `fdstore` | what systemd is told, and what is left with it for the next start |
//! | `pod_init` | the first process of a PID namespace that a pod's containers share |
//! | `snapshot`, `start` | executing anew, and the command line |

mod cgroup;
pub mod client;
mod clients;
mod container;
mod fdstore;
mod greeting;
mod log;
mod machine;
mod notify;
mod pod_init;
mod poll;
mod record;
mod reexec;
mod replace;
mod spawn;
mod standby;
mod start;
mod stream;
mod timer;
mod upgrade;
mod wire;

pub use notify::{FIRST_HANDED_OVER, handed_over, notify};
pub use pod_init::POD_INIT;
pub use start::{RUN, USAGE, is_called_as_keeper, main};
pub use wire::{Frame, Order, Stdin, Stream, Terms};
