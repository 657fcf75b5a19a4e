//! Pods (sandboxes): namespaces, a network and a few files that the containers of a pod share.

mod init;
mod inspect;
mod list;
mod namespaces;
mod run;
mod stop;
mod sysctls;

pub(super) use namespaces::shared_namespaces;
pub(super) use run::INTERFACE;

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use coracle_cri::v1;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::happened::Happened;
use super::host::Host;
use super::records::{Directory, SandboxRecord};
use super::request_from_cri::SandboxRequest;
use super::table::Table;
use crate::error::{Doing, Error, Kind, Result};

/// A pod.
#[derive(Debug)]
pub(super) struct Sandbox {
    pub(super) id: String,
    /// Its configuration as kubelet sent it.
    pub(super) config: v1::PodSandboxConfig,
    /// The request parsed from the configuration.
    pub(super) request: SandboxRequest,
    pub(super) directory: Directory,
    record: Mutex<Stored>,
    /// How many containers are being created in it.
    creates: Mutex<usize>,
    /// Notified when `creates` decreases.
    created: Condvar,
}

/// The record of a pod, and whether it has been removed from disk.
#[derive(Debug)]
struct Stored {
    record: SandboxRecord,
    removed: bool,
    /// What was announced to the listeners for events.
    announced: Happened,
}

/// Counts a container that is being created in a pod, until dropped.
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
        let record = Mutex::new(Stored { record, removed: false, announced: Happened::default() });
        Self { id, config, request, directory, record, creates, created }
    }

    /// The directory for the logs of its containers.
    pub(super) fn log_directory(&self) -> &std::path::Path {
        self.config.log_directory.as_ref()
    }

    /// Clones the record so that no MutexGuard temporary outlives the statement.
    fn record(&self) -> SandboxRecord {
        self.stored().record.clone()
    }

    /// What has happened to it, which is recorded as announced, and what was announced before.
    pub(super) fn announce(&self) -> (Happened, Happened) {
        let mut stored = self.stored();
        let (stopped, deleted) = (!stored.record.ready, stored.removed);
        let now = Happened { created: true, started: true, stopped, deleted };
        (now, std::mem::replace(&mut stored.announced, now))
    }

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    fn stored(&self) -> MutexGuard<'_, Stored> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the record, in memory and on disk.
    fn change(&self, change: impl FnOnce(&mut SandboxRecord)) -> Result<()> {
        let mut stored = self.stored();
        change(&mut stored.record);
        // A removed record must not be written again: the exit of the pod's init process may be reported after the removal.
        if stored.removed { Ok(()) } else { self.directory.save(&stored.record) }
    }

    /// Removes the record: from then on the pod does not exist, even if the rest of the removal is interrupted.
    fn remove_record(&self) -> Result<()> {
        let mut stored = self.stored();
        stored.removed = true;
        self.directory.remove_record()
    }

    /// Marks the pod as not ready: no container can be created or started in it any more.
    ///
    /// # Errors
    /// The record cannot be written.
    pub(super) fn set_not_ready(&self) -> Result<()> {
        self.change(|record| record.ready = false)
    }

    /// Runs `action` unless the pod has been stopped. A concurrent stop waits for `action`, which therefore must not block.
    ///
    /// # Errors
    /// `WrongState` when the pod is not ready; those of `action`.
    pub(super) fn while_ready<T>(&self, action: impl FnOnce() -> Result<T>) -> Result<T> {
        let stored = self.stored();
        if stored.record.ready {
            return action();
        }
        Err(Error::new(Kind::WrongState, format!("pod {} is not ready", self.id)))
    }

    /// Registers the creation of a container. A concurrent stop of the pod does not wait for it; the creation then fails at
    /// its last step, in [`Sandbox::while_ready`].
    ///
    /// # Errors
    /// `WrongState` when the pod is not ready.
    pub(super) fn begin_create(&self) -> Result<Creating<'_>> {
        self.while_ready(|| {
            *self.creates() += 1;
            Ok(Creating(self))
        })
    }

    /// Waits until no container is being created in the pod.
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

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    fn creates(&self) -> MutexGuard<'_, usize> {
        self.creates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether containers can be started in it.
    pub(super) fn is_ready(&self) -> bool {
        self.stored().record.ready
    }

    /// When it was created, in nanoseconds since 1970.
    pub(super) fn created_ns(&self) -> i64 {
        self.stored().record.created_ns
    }

    pub(super) fn handler(&self) -> String {
        self.record().handler
    }

    /// The path of the pinned namespace of this name, if the pod has its own.
    pub(super) fn namespace(&self, name: &str) -> Option<PathBuf> {
        Some(self.directory.join(name)).filter(|path| path.exists())
    }

    pub(super) fn hostname(&self) -> String {
        let text = std::fs::read_to_string(self.directory.join("hostname")).unwrap_or_default();
        text.trim().to_owned()
    }
}

/// The pods of a node.
#[derive(Debug)]
pub(super) struct Sandboxes {
    host: Arc<Host>,
    table: Table<Sandbox>,
    /// The configurations of pods whose init process is being started.
    starting: Table<v1::PodSandboxConfig>,
}

impl Sandboxes {
    pub(super) fn new(host: Arc<Host>) -> Self {
        Self { host, table: Table::default(), starting: Table::default() }
    }

    pub(super) fn insert(&self, sandbox: Sandbox) {
        self.table.insert(sandbox.id.clone(), Arc::new(sandbox));
    }

    pub(super) fn all(&self) -> Vec<Arc<Sandbox>> {
        self.table.all()
    }

    /// The configuration of a pod whose init process is being started.
    pub(super) fn starting(&self, id: &str) -> Option<v1::PodSandboxConfig> {
        self.starting.get(id).map(|config| (*config).clone())
    }

    /// A pod by its whole id.
    pub(super) fn by_id(&self, id: &str) -> Option<Arc<Sandbox>> {
        self.table.get(id)
    }

    /// A pod by id or by the beginning of one.
    ///
    /// # Errors
    /// `Invalid` when several ids begin with `id`.
    pub(super) fn find(&self, id: &str) -> Result<Option<Arc<Sandbox>>> {
        self.table.find(id)
    }

    /// As [`Sandboxes::find`], for a pod that must exist.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`
    pub(super) fn get(&self, id: &str) -> Result<Arc<Sandbox>> {
        self.find(id)?.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no pod {id}")))
    }

    /// Checks that a pod is ready.
    ///
    /// # Errors
    /// `NotFound`, `Invalid`, `WrongState`
    pub(super) fn expect_ready(&self, id: &str) -> Result<()> {
        self.get(id)?.while_ready(|| Ok(()))
    }

    /// A TCP socket in the network of a pod, of IPv6 or else of IPv4: it belongs to that network wherever it is used.
    ///
    /// # Errors
    /// `NotFound`, `WrongState`; the kernel has no such sockets.
    pub(super) fn socket(&self, id: &str, ipv6: bool) -> Result<OwnedFd> {
        let sandbox = self.get(id)?;
        sandbox.while_ready(|| Ok(()))?;
        let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let make = || {
            socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
                .doing(|| "make a socket")
        };
        match sandbox.namespace("net") {
            Some(path) => crate::net::namespace::within(&path, make),
            // It uses the node's network.
            None => make(),
        }
    }
}
