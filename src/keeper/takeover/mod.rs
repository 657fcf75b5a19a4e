//! How one process takes over from another without a container noticing it.
//!
//! | | from | to |
//! |---|---|---|
//! | `reexec` | a keeper | the program that lies there now, in the same process |
//! | `standby` | a keeper that was killed | its standby |
//! | `successor` | a keeper that somebody else started | systemd's unit, or `--replace` |
//! | `fd_store` | a unit that is stopped for a restart | its next start |
//!
//! `snapshot` is what is taken over, `serve` makes a keeper of it, `lock` says which process is the keeper.

mod fd_store;
mod lock;
mod reexec;
mod serve;
mod snapshot;
mod standby;
mod successor;

pub(in crate::keeper) use fd_store::find;
pub(in crate::keeper) use lock::is_served;
pub(in crate::keeper) use reexec::resume;
pub(in crate::keeper) use serve::{go_on, serve};
pub(in crate::keeper) use snapshot::Snapshot;
pub(in crate::keeper) use successor::take_over;
