//! Aborts a start that is under way.
//!
//! A process in the pod can stop (SIGSTOP) the container's init process while it is being set up, and the start then waits
//! for it. StopContainer must not wait for such a start: it kills the init process, which needs no lock, and the start ends
//! with an error.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Signal, pidfd_send_signal};

use crate::error::{Doing, Error, Kind, Result};
use crate::keeper::client::KeeperSpawner;
use crate::launch::apply::{SpawnRequest, Spawner};
use crate::sys::process::Spawned;

/// Aborts one start.
#[derive(Debug, Default)]
pub(super) struct Abort(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    fired: bool,
    process: Option<OwnedFd>,
}

impl Abort {
    /// Makes the start end: kills its process, now or as soon as there is one.
    pub(super) fn fire(&self) {
        let mut state = self.state();
        state.fired = true;
        if let Some(process) = &state.process {
            // A process that has already exited is no error.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    /// Whether the start was aborted.
    pub(super) fn is_fired(&self) -> bool {
        self.state().fired
    }

    /// # Errors
    /// `Cancelled` when the start was aborted.
    fn check(&self) -> Result<()> {
        match self.is_fired() {
            true => Err(Error::new(Kind::Cancelled, "the container was stopped during its start")),
            false => Ok(()),
        }
    }

    fn hold(&self, spawned: &Spawned) -> Result<()> {
        let process = spawned.pidfd.try_clone().doing(|| "hold the container's process")?;
        let mut state = self.state();
        if state.fired {
            let _ = pidfd_send_signal(&process, Signal::KILL);
        }
        state.process = Some(process);
        Ok(())
    }

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Spawns through the keeper, and can be aborted while the process is being set up.
#[derive(Debug)]
pub(super) struct Abortable {
    pub(super) spawner: Rc<KeeperSpawner>,
    pub(super) abort: Arc<Abort>,
}

impl Spawner for Abortable {
    fn spawn(&self, request: SpawnRequest<'_>) -> Result<Spawned> {
        self.abort.check()?;
        let spawned = self.spawner.spawn(request)?;
        self.abort.hold(&spawned)?;
        Ok(spawned)
    }

    fn adopt(&self, before: &Spawned, pid: i32) -> Result<Spawned> {
        let spawned = self.spawner.adopt(before, pid)?;
        self.abort.hold(&spawned)?;
        Ok(spawned)
    }
}
