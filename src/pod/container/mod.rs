//! The containers of pods: one file per CRI call.

mod create;
mod exec;
mod exit;
mod inspect;
mod kill_tree;
mod list;
mod prepare;
mod remove;
mod start;
mod stop;
mod stream;
mod update;

pub(super) use exec::PREFIX as EXEC_PREFIX;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use coracle_cri::v1;
use oci_spec::runtime::Spec;

use super::abort::Abort;
use super::happened::Happened;
use super::host::Host;
use super::layer_usage::LayerUsage;
use super::machine::{Event, State, step};
use super::now_ns;
use super::records::{ContainerRecord, Directory};
use super::request_from_cri::CreateRequest;
use super::table::Table;
use crate::error::{Error, Kind, Result};
use crate::record::Exit;

/// Exit code and reason of a container that could not be started, as in containerd.
const START_ERROR: (i32, &str) = (128, "StartError");

/// A container of a pod.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    /// The id of its pod.
    pub(super) pod: String,
    pub(super) directory: Directory,
    /// The path of its log; none when its output is discarded.
    log_path: Option<PathBuf>,
    life: Mutex<Life>,
    /// Notified on each change of `life`.
    changed: Condvar,
    /// The size of its writable layer.
    pub(super) usage: Arc<LayerUsage>,
}

/// What changes in the life of a container.
#[derive(Debug)]
pub(super) struct Life {
    /// As kubelet sent it, with the resource limits in force.
    pub(super) config: v1::ContainerConfig,
    pub(super) record: ContainerRecord,
    /// The request parsed from the configuration; dropped once the container has been started, since only a start needs it.
    request: Option<Box<CreateRequest>>,
    /// What CreateContainer prepared for the start; the start takes it.
    prepared: Option<Box<Prepared>>,
    /// Aborts the start that is under way.
    start: Option<Arc<Abort>>,
    /// When StopContainer sends SIGKILL; none if no stop is under way.
    kill_at: Option<Instant>,
    /// Nothing is left of it.
    is_removed: bool,
    /// What was announced to the listeners for events.
    announced: Happened,
}

/// What is needed to start a container.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) spec: Spec,
    /// Its root filesystem, a detached mount.
    pub(super) root: OwnedFd,
}

impl Container {
    pub(super) fn new(
        id: String,
        pod: String,
        directory: Directory,
        config: v1::ContainerConfig,
        request: CreateRequest,
        record: ContainerRecord,
    ) -> Self {
        let log_path = request.log_path.clone();
        let request = is_startable(record.state).then(|| Box::new(request));
        let (is_removed, announced) = Default::default();
        let life = Life {
            config,
            request,
            record,
            prepared: None,
            start: None,
            kill_at: None,
            is_removed,
            announced,
        };
        let (life, changed, usage) = (Mutex::new(life), Condvar::new(), Arc::default());
        Self { id, pod, directory, log_path, life, changed, usage }
    }

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What has happened to it, which is recorded as announced, and what was announced before.
    pub(super) fn announce(&self) -> (Happened, Happened) {
        let mut life = self.life();
        let now = Happened {
            created: true,
            started: life.record.started_ns > 0,
            stopped: life.record.finished_ns > 0,
            deleted: life.is_removed,
        };
        (now, std::mem::replace(&mut life.announced, now))
    }

    /// Whether nothing is left of it.
    pub(super) fn is_removed(&self) -> bool {
        self.life().is_removed
    }

    pub(super) fn state(&self) -> State {
        self.life().record.state
    }

    /// Its state and exit code.
    pub(super) fn exit(&self) -> (State, i32) {
        let life = self.life();
        (life.record.state, life.record.exit_code)
    }

    /// Applies an event of its life cycle, and `change` to the rest of the record, in memory and on disk.
    ///
    /// # Errors
    /// `WrongState` when the state does not allow the event; the record cannot be written.
    pub(super) fn apply(&self, event: Event, change: impl FnOnce(&mut ContainerRecord)) -> Result<()> {
        self.apply_to(&mut self.life(), event, change)
    }

    fn apply_to(
        &self,
        life: &mut Life,
        event: Event,
        change: impl FnOnce(&mut ContainerRecord),
    ) -> Result<()> {
        let state = life.record.state;
        let Some(next) = step(state, event) else {
            let doing = format!("cannot {event} container {}: it is {state}", self.id);
            return Err(Error::new(Kind::WrongState, doing));
        };
        // A second report of the exit changes nothing; the report of the start may follow that of the exit.
        if next != state || next != State::Exited || event == Event::Started {
            change(&mut life.record);
        }
        life.record.state = next;
        if next != State::Starting {
            life.start = None;
        }
        if !is_startable(next) {
            life.request = None;
        }
        let saved = if next == State::Gone { Ok(()) } else { self.directory.save(&life.record) };
        self.changed.notify_all();
        saved
    }

    /// Records the exit of its init process.
    fn exited(&self, exit: Exit) -> Result<()> {
        let reason = match exit {
            Exit { unknown: true, .. } => "Unknown",
            Exit { oom: true, .. } => "OOMKilled",
            Exit { code: 0, .. } => "Completed",
            _ => "Error",
        };
        self.apply(Event::Ended, |record| {
            record.set_finished(if exit.at_ns > 0 { exit.at_ns } else { now_ns() });
            record.exit_code = exit.code.into();
            reason.clone_into(&mut record.reason);
        })
    }
}

/// Whether a container in this state can be started or is being started.
fn is_startable(state: State) -> bool {
    match state {
        State::Created | State::Starting => true,
        State::Running | State::Exited | State::Gone => false,
    }
}

/// The containers of all pods.
#[derive(Debug)]
pub(super) struct Containers {
    host: Arc<Host>,
    table: Table<Container>,
}

impl Containers {
    pub(super) fn new(host: Arc<Host>) -> Self {
        Self { host, table: Table::default() }
    }

    pub(super) fn insert(&self, container: Arc<Container>) {
        self.table.insert(container.id.clone(), container);
    }

    pub(super) fn all(&self) -> Vec<Arc<Container>> {
        self.table.all()
    }

    /// The containers of a pod.
    pub(super) fn in_pod(&self, pod: &str) -> Vec<Arc<Container>> {
        self.table.lock().values().filter(|container| container.pod == pod).cloned().collect()
    }

    /// A container by its whole id.
    pub(super) fn by_id(&self, id: &str) -> Option<Arc<Container>> {
        self.table.get(id)
    }

    /// A container by id or by the beginning of one.
    ///
    /// # Errors
    /// `Invalid` when several ids begin with `id`.
    pub(super) fn find(&self, id: &str) -> Result<Option<Arc<Container>>> {
        self.table.find(id)
    }

    /// As [`Containers::find`], for a container that must exist.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`
    pub(super) fn get(&self, id: &str) -> Result<Arc<Container>> {
        self.find(id)?.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no container {id}")))
    }

    /// As [`Containers::get`], for a container that must be running.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, `WrongState`
    fn running(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.get(id)?;
        match container.state() {
            State::Running => Ok(container),
            state => Err(Error::new(Kind::WrongState, format!("container {} is {state}", container.id))),
        }
    }
}
