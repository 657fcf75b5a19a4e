//! What every part of `Pods` needs of the node: settings, directories, the image store, networks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use super::disposal::Disposal;
use super::records::Directories;
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::net::cni::Cni;
use crate::oci::Runtime;
use crate::record::{ContainerState, Exit, Layout};
use crate::store::Store;

/// The slice for pods that name no cgroup parent.
const DEFAULT_SLICE: &str = "system.slice";

/// The cgroup parent for pods that name none.
const DEFAULT_PARENT: &str = "/coracle";

/// Where and how pods run. Fixed while the daemon runs.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The run directory, on tmpfs.
    pub run: PathBuf,
    /// The OCI verbs' state directory: one directory per container.
    pub root: PathBuf,
    /// Caches; they may be deleted at any time.
    pub cache: PathBuf,
    /// Ask systemd for scopes.
    pub systemd_cgroup: bool,
    /// Keep writable layers on tmpfs, below the run directory, instead of in the store.
    pub layers_in_memory: bool,
    /// Apply the runtime's default seccomp profile to containers that request it.
    pub seccomp: bool,
    /// Apply the runtime's default AppArmor profile to containers that request it.
    pub apparmor: bool,
    /// Set SELinux labels.
    pub selinux: bool,
    /// cAdvisor asks this daemon about pods, so each needs a cgroup by which cAdvisor finds it.
    pub serves_cadvisor: bool,
    /// Let every user in a pod with its own network listen on ports below 1024.
    pub unprivileged_ports: bool,
    /// Let every user in a pod with its own network open ICMP echo sockets (ping).
    pub unprivileged_icmp: bool,
}

/// What a reload of the configuration may replace while pods run.
#[derive(Debug)]
pub struct Offer {
    /// Runtime handlers besides `""`, and whether their containers get the GPUs that NVIDIA's images ask for.
    pub handlers: BTreeMap<String, bool>,
    /// The networks that pods are attached to.
    pub cni: Cni,
}

/// The node that pods run on.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) settings: Settings,
    pub(super) store: Arc<Store>,
    pub(super) directories: Directories,
    pub(super) disposal: Arc<Disposal>,
    offer: RwLock<Arc<Offer>>,
}

impl Host {
    /// Creates the directories below the run directory.
    ///
    /// # Errors
    /// The run directory cannot be read or written.
    pub(super) fn open(settings: Settings, offer: Arc<Offer>, store: Arc<Store>) -> Result<Self> {
        let directories = Directories::new(&settings.run);
        directories.make()?;
        let disposal = Disposal::new(Arc::clone(&store));
        Ok(Self { settings, store, directories, disposal, offer: RwLock::new(offer) })
    }

    /// Replaces the handlers and networks; operations already under way keep the old ones.
    pub(super) fn reload(&self, offer: Arc<Offer>) {
        *self.offer.write().unwrap_or_else(PoisonError::into_inner) = offer;
    }

    pub(super) fn offer(&self) -> Arc<Offer> {
        Arc::clone(&self.offer.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// # Errors
    /// `NotFound` for a handler that is not configured.
    pub(super) fn check_handler(&self, handler: &str) -> Result<()> {
        let offer = self.offer();
        if handler.is_empty() || offer.handlers.contains_key(handler) {
            return Ok(());
        }
        let known = offer.handlers.keys().cloned().collect::<Vec<_>>().join(", ");
        Err(Error::new(Kind::NotFound, format!("no runtime handler {handler:?} is configured"))
            .hint(format!("there are {known}")))
    }

    /// The OCI runtime with this node's settings.
    pub(super) fn runtime(&self) -> Runtime {
        Runtime {
            root: self.settings.root.clone(),
            cache: self.settings.cache.clone(),
            systemd_cgroup: self.settings.systemd_cgroup,
        }
    }

    /// `linux.cgroupsPath` of a container below the parent that kubelet names.
    pub(super) fn cgroup_path(&self, parent: Option<&Path>, id: &str) -> PathBuf {
        if !self.settings.systemd_cgroup {
            return parent.unwrap_or(Path::new(DEFAULT_PARENT)).join(id);
        }
        // kubelet sends the path of a slice; systemd wants its name.
        let slice = parent.and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or(DEFAULT_SLICE);
        PathBuf::from(format!("{slice}:coracle:{id}"))
    }

    /// The directory that holds a container's writable layer.
    pub(super) fn layer(&self, id: &str) -> Result<PathBuf> {
        match self.settings.layers_in_memory {
            true => Ok(self.directories.layer(id)),
            false => Ok(self.store.container_dir(&ContainerId::parse(id)?)),
        }
    }

    /// The directory that identifies the filesystem of writable layers: in the store, the one that ImageFsInfo names.
    pub(super) fn layers(&self) -> &Path {
        match self.settings.layers_in_memory {
            true => &self.settings.run,
            false => self.store.root(),
        }
    }

    /// Where the OCI runtime keeps a container's state.
    pub(super) fn layout(&self, id: &ContainerId) -> Layout {
        Layout::new(&self.settings.root, id)
    }

    /// The OCI state of a container that was started.
    pub(super) fn oci_state(&self, id: &str) -> Result<ContainerState> {
        ContainerState::load(&self.layout(&ContainerId::parse(id)?))
    }

    /// The PID of a running container's init process.
    pub(super) fn init_pid(&self, id: &str) -> Result<i32> {
        Ok(self.oci_state(id)?.init_process_pid)
    }

    /// The exit that the keeper recorded for a container; `Exit::unknown` when there is no record.
    ///
    /// # Errors
    /// `Unsupported` when a keeper of another release wrote the record: it and the container are left alone.
    pub(super) fn recorded_exit(&self, id: &str) -> Result<Exit> {
        let Ok(id) = ContainerId::parse(id) else { return Ok(Exit::unknown()) };
        match Exit::load(&self.layout(&id)) {
            Err(error) if error.kind() == Kind::Unsupported => Err(error),
            other => Ok(other.ok().flatten().unwrap_or_else(Exit::unknown)),
        }
    }
}
