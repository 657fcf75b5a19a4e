//! Ending a start that is under way.
//!
//! A start may wait for a process of the container that somebody in the pod has stopped. Whoever stops the container does
//! not wait for the start: it kills that process, which needs no lock, and the start ends with an error.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::{Signal, pidfd_send_signal};

use crate::error::{Doing, Error, Kind, Result};
use crate::keeper::client::KeeperSpawner;
use crate::launch::apply::{SpawnRequest, Spawner};
use crate::sys::process::Spawned;

/// What ends a start.
#[derive(Debug, Default)]
pub(super) struct Abort(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    fired: bool,
    process: Option<OwnedFd>,
}

impl Abort {
    /// Has the start end: its process is killed, now or as soon as there is one.
    pub(super) fn fire(&self) {
        let mut state = self.state();
        state.fired = true;
        if let Some(process) = &state.process {
            // That it has ended is as good.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    /// Whether the start is to end.
    pub(super) fn is_fired(&self) -> bool {
        self.state().fired
    }

    /// # Errors
    /// `Cancelled` when the start is to end.
    fn check(&self) -> Result<()> {
        match self.is_fired() {
            true => Err(Error::new(Kind::Cancelled, "the container was stopped while it was started")),
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

    /// No foreign code runs while it is held, so a poisoned one is sound.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A launch by the keeper that can be ended while its process is set up.
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
