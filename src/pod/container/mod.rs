//! A container of a pod.

mod create;
mod exec;
mod kill_tree;
mod list;
mod remove;
mod start;
mod stop;
mod update;

pub(super) use create::MARK;
pub(super) use exec::PREFIX;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use coracle_cri::v1;
use oci_spec::runtime::Spec;

use super::abort::Abort;
use super::machine::{Event, State, step};
use super::records::{ContainerRecord, Directory};
use super::request_from_cri::CreateRequest;
use super::stats::LayerUsage;
use super::{Pods, now_ns, table};
use crate::error::{Error, Kind, Result};
use crate::record::Exit;

/// Exit code and reason of a container that could not be started, as containerd has them.
const START_ERROR: (i32, &str) = (128, "StartError");

/// See the module's head.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) id: String,
    /// The pod's id.
    pub(super) pod: String,
    pub(super) directory: Directory,
    /// Where its log goes; none when it is not kept.
    log_path: Option<PathBuf>,
    life: Mutex<Life>,
    /// Notified of each change of `life`.
    changed: Condvar,
    /// How large its writable layer is.
    pub(super) usage: Arc<LayerUsage>,
}

/// What changes in the life of a container.
#[derive(Debug)]
pub(super) struct Life {
    /// As kubelet sent it; its limits are those in force.
    pub(super) config: v1::ContainerConfig,
    pub(super) record: ContainerRecord,
    /// The request that the configuration comes to, until the container has been started: nobody needs it after that.
    request: Option<Box<CreateRequest>>,
    /// What was made for its start, until then.
    prepared: Option<Box<Prepared>>,
    /// Ends its start, while that is under way.
    start: Option<Arc<Abort>>,
    /// It was asked to end, and is killed then.
    kill_at: Option<Instant>,
}

/// What is needed to start a container.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) spec: Spec,
    /// Its root, mounted and attached nowhere.
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
        let life = Life { config, request, record, prepared: None, start: None, kill_at: None };
        let (life, changed, usage) = (Mutex::new(life), Condvar::new(), Arc::default());
        Self { id, pod, directory, log_path, life, changed, usage }
    }

    /// Nothing foreign runs while it is held, so a poisoned one is sound.
    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn state(&self) -> State {
        self.life().record.state
    }

    /// Takes it through the table, with what else changes then, in memory and on disk.
    ///
    /// # Errors
    /// `WrongState` when the event is not allowed now; the record cannot be written.
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
        // How it ended is not changed by hearing of it again; when it was started may be heard after its end.
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

    /// Its process has ended.
    pub(super) fn ended(&self, exit: Exit) -> Result<()> {
        let reason = match exit {
            Exit { unknown: true, .. } => "Unknown",
            Exit { oom: true, .. } => "OOMKilled",
            Exit { code: 0, .. } => "Completed",
            _ => "Error",
        };
        self.apply(Event::Ended, |record| {
            record.finished_ns = if exit.at_ns > 0 { exit.at_ns } else { now_ns() };
            // That it was started may have been noted only after its end.
            record.started_ns = record.started_ns.min(record.finished_ns);
            record.exit_code = exit.code.into();
            reason.clone_into(&mut record.reason);
        })
    }
}

/// Whether a container in this state is to be started, or is being started.
fn is_startable(state: State) -> bool {
    match state {
        State::Created | State::Starting => true,
        State::Running | State::Exited | State::Gone => false,
    }
}

impl Pods {
    /// A container by id or the beginning of one.
    pub(super) fn find_container(&self, id: &str) -> Result<Option<Arc<Container>>> {
        table::find(&self.table().containers, id)
    }

    /// A container by id or the beginning of one.
    ///
    /// # Errors
    /// `NotFound`
    pub(super) fn container(&self, id: &str) -> Result<Arc<Container>> {
        self.find_container(id)?
            .ok_or_else(|| Error::new(Kind::NotFound, format!("there is no container {id}")))
    }

    /// A container that runs.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`
    pub(super) fn running(&self, id: &str) -> Result<Arc<Container>> {
        let container = self.container(id)?;
        match container.state() {
            State::Running => Ok(container),
            state => Err(Error::new(Kind::WrongState, format!("container {} is {state}", container.id))),
        }
    }
}
