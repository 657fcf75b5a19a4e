//! The exit of a container: its record, and the removal of what it leaves behind.

use super::{Container, Containers};
use crate::error::{Doing, Kind, Result};
use crate::id::ContainerId;
use crate::oci::{Runtime, delete, kill};
use crate::pod::machine::{Event, State};
use crate::record::Exit;

impl Containers {
    /// Records the exit of a container, and removes its remaining processes, cgroup and OCI state.
    ///
    /// # Errors
    /// The record cannot be written, or no thread can be created.
    pub(in crate::pod) fn record_exit(&self, container: &Container, exit: Exit) -> Result<()> {
        let id = ContainerId::parse(&container.id)?;
        container.exited(exit)?;
        self.keep_spec(container, &id);
        let runtime = self.host.runtime();
        // In a separate thread: a process that does not die, or a hook, must not delay the next exit.
        let thread = std::thread::Builder::new().name("clean-up".to_owned()).stack_size(256 << 10);
        let work = move || {
            if let Err(error) = clean_up(&runtime, &id) {
                crate::log::warning(&error.doing(format!("clean up after container {id}")).chain());
            }
        };
        thread.spawn(work).map(drop).doing(|| "start a thread")
    }

    /// Records the exit of a container that was just started, if it has exited before its state became `Running`: had its
    /// keeper been killed then, no later message would report it.
    pub(super) fn record_early_exit(&self, container: &Container) {
        let has_exited =
            ContainerId::parse(&container.id).is_ok_and(|id| self.host.layout(&id).exit().exists());
        if has_exited && container.state() == State::Running {
            let exit = self.host.recorded_exit(&container.id);
            if let Err(error) = exit.and_then(|exit| self.record_exit(container, exit)) {
                let doing = format!("record the exit of {}", container.id);
                crate::log::warning(&error.doing(doing).chain());
            }
        }
    }

    /// Takes over a container that the keeper runs although no record says that it was started: the daemon that started it
    /// was killed before it wrote one.
    ///
    /// # Errors
    /// The record cannot be written, or the exit record is of another release.
    pub(in crate::pod) fn adopt(&self, container: &Container) -> Result<()> {
        // 0 when no exit is recorded.
        let exited_ns = self.host.recorded_exit(&container.id)?.at_ns;
        container.apply(Event::Started, |record| {
            record.set_started();
            if exited_ns > 0 {
                record.started_ns = record.started_ns.min(exited_ns);
            }
        })
    }
}

/// Removes what an exited container leaves behind. RemoveContainer does the same, possibly at the same time.
fn clean_up(runtime: &Runtime, id: &ContainerId) -> Result<()> {
    // In a PID namespace that it shares, its init process may leave other processes behind.
    let _ = kill::kill_at_once(runtime, id, libc::SIGKILL, true);
    match delete::delete(runtime, id, true) {
        Err(e) if e.kind() == Kind::NotFound => Ok(()),
        other => other,
    }
}
