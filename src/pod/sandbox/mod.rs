//! A pod: namespaces, a network and a few files that its containers share.

mod list;
mod namespaces;
mod run;
mod stop;

pub(super) use run::INTERFACE;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use coracle_cri::convert::{SandboxWishes, Scope};
use coracle_cri::v1;

use super::records::{Directory, SandboxRecord};
use super::{Pods, table};
use crate::error::{Error, Kind, Result};

/// See the module's head.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    /// As kubelet sent it.
    pub(super) config: v1::PodSandboxConfig,
    pub(super) directory: Directory,
    record: Mutex<SandboxRecord>,
    /// Shared by what makes and starts containers in it, held alone by what ends it.
    work: RwLock<()>,
}

impl Sandbox {
    pub(super) fn new(
        id: String,
        config: v1::PodSandboxConfig,
        directory: Directory,
        record: SandboxRecord,
    ) -> Self {
        Self { id, config, directory, record: Mutex::new(record), work: RwLock::default() }
    }

    /// Where the logs of its containers go.
    pub(super) fn log_directory(&self) -> &std::path::Path {
        self.config.log_directory.as_ref()
    }

    /// What became of it: a copy, for a guard in the middle of an expression lives longer than it looks.
    fn record(&self) -> SandboxRecord {
        self.locked().clone()
    }

    /// Nothing foreign runs while it is held, so a poisoned one is sound.
    fn locked(&self) -> MutexGuard<'_, SandboxRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record, in memory and on disk.
    fn change(&self, change: impl FnOnce(&mut SandboxRecord)) -> Result<()> {
        let mut record = self.locked();
        change(&mut record);
        self.directory.save(&*record)
    }

    /// Its own process has ended: nothing can be started in it any more.
    pub(super) fn lost_its_process(&self) -> Result<()> {
        self.change(|record| record.ready = false)
    }

    /// Holds it as it is while a container is made or started in it.
    ///
    /// # Errors
    /// `WrongState` when it is not ready.
    pub(super) fn at_work(&self) -> Result<RwLockReadGuard<'_, ()>> {
        let guard = self.work.read().unwrap_or_else(PoisonError::into_inner);
        if self.record().ready {
            return Ok(guard);
        }
        Err(Error::new(Kind::WrongState, format!("pod {} is not ready", self.id)))
    }

    /// Its runtime handler.
    pub(super) fn handler(&self) -> String {
        self.record().handler
    }

    /// What its configuration comes to.
    pub(super) fn wishes(&self) -> Result<SandboxWishes> {
        wishes(&self.config)
    }

    /// The pinned namespace of this name, when the pod has one of its own.
    pub(super) fn namespace(&self, name: &str) -> Option<PathBuf> {
        Some(self.directory.join(name)).filter(|path| path.exists())
    }

    /// The network namespace, when it has one of its own.
    pub(super) fn network(&self, wishes: &SandboxWishes) -> Option<PathBuf> {
        (wishes.namespaces.network == Scope::Pod).then(|| self.directory.join("net"))
    }

    /// The host name of its containers.
    pub(super) fn hostname(&self) -> String {
        let text = std::fs::read_to_string(self.directory.join("hostname")).unwrap_or_default();
        text.trim().to_owned()
    }
}

/// What a configuration comes to. It was checked when it came in.
pub(super) fn wishes(config: &v1::PodSandboxConfig) -> Result<SandboxWishes> {
    SandboxWishes::of(config).map_err(|e| Error::invalid(e.message))
}

impl Pods {
    /// A pod by id or the beginning of one.
    pub(super) fn find_sandbox(&self, id: &str) -> Result<Option<Arc<Sandbox>>> {
        table::find(&self.table().sandboxes, id)
    }

    /// A pod by id or the beginning of one.
    ///
    /// # Errors
    /// `NotFound`
    pub(super) fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        self.find_sandbox(id)?.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no pod {id}")))
    }
}
