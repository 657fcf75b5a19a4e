//! A pod: namespaces, a network and a few files that its containers share.

mod list;
mod namespaces;
mod run;
mod stop;

pub(super) use run::INTERFACE;

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coracle_cri::v1;

use super::records::{Directory, SandboxRecord};
use super::request_from_cri::SandboxRequest;
use super::{Pods, table};
use crate::error::{Error, Kind, Result};

/// See the module's head.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    /// Its configuration as kubelet sent it.
    pub(super) config: v1::PodSandboxConfig,
    /// The request that the configuration comes to.
    pub(super) request: SandboxRequest,
    pub(super) directory: Directory,
    /// What became of it.
    record: Mutex<Kept>,
    /// Containers that are being created in it.
    creates: Mutex<usize>,
    /// Told when there is one fewer.
    created: Condvar,
}

/// What is known of a pod, and whether it is still to be.
#[derive(Debug)]
struct Kept {
    record: SandboxRecord,
    forgotten: bool,
}

/// A container is being created in a pod.
#[derive(Debug)]
pub(super) struct Creating<'a>(&'a Sandbox);

impl Drop for Creating<'_> {
    fn drop(&mut self) {
        *self.0.creates() -= 1;
        self.0.created.notify_all();
    }
}

impl Sandbox {
    pub(super) fn new(
        id: String,
        config: v1::PodSandboxConfig,
        request: SandboxRequest,
        directory: Directory,
        record: SandboxRecord,
    ) -> Self {
        let (creates, created) = (Mutex::default(), Condvar::new());
        let record = Mutex::new(Kept { record, forgotten: false });
        Self { id, config, request, directory, record, creates, created }
    }

    /// Where the logs of its containers go.
    pub(super) fn log_directory(&self) -> &std::path::Path {
        self.config.log_directory.as_ref()
    }

    /// A copy of the record, so that no guard lives longer than the expression it stands in.
    fn record(&self) -> SandboxRecord {
        self.locked().record.clone()
    }

    /// Nothing foreign runs while it is held, so a poisoned one is sound.
    fn locked(&self) -> MutexGuard<'_, Kept> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record, in memory and on disk.
    fn change(&self, change: impl FnOnce(&mut SandboxRecord)) -> Result<()> {
        let mut kept = self.locked();
        change(&mut kept.record);
        // What is being removed must not come back: the end of its own process may be heard as late as that.
        if kept.forgotten { Ok(()) } else { self.directory.save(&kept.record) }
    }

    /// Removes the record: the pod does not exist any more, whatever else is still to be removed.
    fn forget(&self) -> Result<()> {
        let mut kept = self.locked();
        kept.forgotten = true;
        self.directory.forget()
    }

    /// Its own process has ended: nothing can be started in it any more.
    pub(super) fn lost_its_process(&self) -> Result<()> {
        self.change(|record| record.ready = false)
    }

    /// Does something that must not happen in a pod that is being stopped: whoever stops it waits for `action`, which
    /// therefore must not wait for anything.
    ///
    /// # Errors
    /// `WrongState` when it is not ready; what `action` answers.
    pub(super) fn while_ready<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        let kept = self.locked();
        if kept.record.ready {
            return action();
        }
        Err(Error::new(Kind::WrongState, format!("pod {} is not ready", self.id)))
    }

    /// A container begins to be created in it. Whoever stops the pod meanwhile does not wait for that; the container comes
    /// to nothing then, by [`Sandbox::while_ready`].
    ///
    /// # Errors
    /// `WrongState` when it is not ready.
    pub(super) fn begin_create(&self) -> Result<Creating<'_>> {
        self.while_ready(|| {
            *self.creates() += 1;
            Ok(Creating(self))
        })
    }

    /// Waits until no container is being created in it.
    ///
    /// # Errors
    /// `TimedOut` when that takes longer than `limit`.
    pub(super) fn await_creates(&self, limit: Duration) -> Result<()> {
        let waited = self.created.wait_timeout_while(self.creates(), limit, |count| *count > 0);
        match *waited.unwrap_or_else(PoisonError::into_inner).0 {
            0 => Ok(()),
            _ => Err(Error::new(
                Kind::TimedOut,
                format!("a container is still being created in pod {}", self.id),
            )
            .hint("it may wait for a volume on a network filesystem")),
        }
    }

    /// Nothing foreign runs while it is held, so a poisoned one is sound.
    fn creates(&self) -> MutexGuard<'_, usize> {
        self.creates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its runtime handler.
    pub(super) fn handler(&self) -> String {
        self.record().handler
    }

    /// The pinned namespace of this name, when the pod has one of its own.
    pub(super) fn namespace(&self, name: &str) -> Option<PathBuf> {
        Some(self.directory.join(name)).filter(|path| path.exists())
    }

    /// The host name of its containers.
    pub(super) fn hostname(&self) -> String {
        let text = std::fs::read_to_string(self.directory.join("hostname")).unwrap_or_default();
        text.trim().to_owned()
    }
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
