//! State on disk of OCI containers: one directory per container below the root that `--root` names.
//!
//! ```text
//! <root>/<id>/            0700, made by create, gone after delete; files in it are 0600
//!     state.json          what is known of the container, in runc's format; replaced whole, never written in place
//!     cgroup.json         the directories of its cgroup, written before they are made: all there is of a create that was killed
//!     config.json         the configuration it was created from, for exec
//!     exit                how it ended, as `key=value` a line; only of containers that a keeper is the parent of
//!     start.sock          the init listens here until it is started: created while it is there, running after
//! ```
//!
//! The directory itself is the lock (flock(2) on its descriptor): two verbs on one container exclude each other.

mod exit;
pub mod format;
#[cfg(test)]
pub(crate) mod golden;
mod group;
mod layout;
mod lock;
mod state;
pub mod time;

pub use exit::Exit;
pub use group::{note_group, noted_group};
pub use layout::{Layout, close_all, ids};
pub use lock::Lock;
pub use state::{BundleConfig, ContainerState, Extra, OCI_VERSION, PublicState};
