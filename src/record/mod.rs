//! State on disk of OCI containers: one directory per container below the root that `--root` names.
//!
//! ```text
//! <root>/<id>/            0700, created by create, removed by delete; files in it are 0600
//!     state.json          the container's record, in runc's format; replaced atomically, never written in place
//!     cgroup.json         the directories of its cgroup, written before they are created: all that is left of a killed create
//!     config.json         the configuration it was created from, for exec
//!     exit                how it ended, as `key=value` a line; only of containers that a keeper is the parent of
//!     start.sock          the init listens here until it is started; while it exists the status is created
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
