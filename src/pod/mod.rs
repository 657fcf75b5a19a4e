//! Pods and their containers, as the CRI has them.
//!
//! ```text
//! run/pods/<pod>/config                  the configuration as kubelet sent it
//! run/pods/<pod>/request, record         the request that it comes to; the state of the pod
//! run/pods/<pod>/net, ipc, uts, pid      namespaces, pinned: no process is needed to hold them
//! run/pods/<pod>/shm, resolv.conf, ...   what its containers get bound
//! run/pods/<pod>/containers/<id>/        the same of a container
//! ```
//!
//! All of it lies in memory and is gone after a reboot, as the pods are. A record is written last and removed first: what
//! has none is the leftover of work that was interrupted, and is undone when the daemon starts.
//!
//! Everything here blocks; it is called from several threads at a time. Lists are answered from memory.

mod abort;
mod backend;
pub mod cdi;
mod container;
mod cri_error;
mod exits;
mod files;
pub mod machine;
mod records;
mod recover;
pub mod request_from_cri;
mod requests;
mod resolve;
mod run_in_keeper;
mod sandbox;
mod stats;
mod table;
mod volumes;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

pub(crate) use cri_error::one_line;

use crate::error::{Error, Kind, Result};
use crate::net::cni::Cni;
use crate::oci::Runtime;
use crate::store::Store;
use records::Directories;
use table::Table;

/// Where and how pods are run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The run directory, in memory.
    pub run: PathBuf,
    /// Where the OCI verbs keep one directory per container.
    pub root: PathBuf,
    /// Caches that may vanish at any time.
    pub cache: PathBuf,
    /// Ask systemd for scopes.
    pub systemd_cgroup: bool,
    /// Writable layers lie in memory, below the run directory, and not in the store.
    pub layers_in_memory: bool,
    /// The runtime's default seccomp profile is in force where it is asked for.
    pub seccomp: bool,
    /// The same of AppArmor.
    pub apparmor: bool,
    /// SELinux labels are set.
    pub selinux: bool,
}

/// What may change while pods run.
#[derive(Debug)]
pub struct Offer {
    /// Runtime handlers besides `""`, and whether their containers get GPUs as NVIDIA's images ask for them.
    pub handlers: BTreeMap<String, bool>,
    /// The networks that pods are attached to.
    pub cni: Cni,
}

/// The pods of a node.
#[derive(Debug)]
pub struct Pods {
    settings: Settings,
    store: Arc<Store>,
    offer: RwLock<Arc<Offer>>,
    directories: Directories,
    table: Mutex<Table>,
}

impl Pods {
    /// The pods of this node: what the run directory knows, with interrupted work undone. From here on a thread of its own
    /// hears of containers that end.
    ///
    /// # Errors
    /// The run directory cannot be read or written.
    pub fn open(settings: Settings, offer: Arc<Offer>, store: Arc<Store>) -> Result<Arc<Self>> {
        let directories = Directories::new(&settings.run);
        directories.make()?;
        let (offer, table) = (RwLock::new(offer), Mutex::default());
        let pods = Arc::new(Self { settings, store, offer, directories, table });
        pods.recover()?;
        exits::start(&pods)?;
        Ok(pods)
    }

    /// Replaces the handlers and networks; work that has begun goes on with those it began with.
    pub fn reload(&self, offer: Arc<Offer>) {
        *self.offer.write().unwrap_or_else(PoisonError::into_inner) = offer;
    }

    fn offer(&self) -> Arc<Offer> {
        Arc::clone(&self.offer.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn runtime(&self) -> Runtime {
        Runtime {
            root: self.settings.root.clone(),
            cache: self.settings.cache.clone(),
            systemd_cgroup: self.settings.systemd_cgroup,
        }
    }

    /// No foreign code runs while it is held, so a poisoned one has a sound table behind it.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_handler(&self, handler: &str) -> Result<()> {
        let offer = self.offer();
        if handler.is_empty() || offer.handlers.contains_key(handler) {
            return Ok(());
        }
        let known = offer.handlers.keys().cloned().collect::<Vec<_>>().join(", ");
        Err(Error::new(Kind::NotFound, format!("no runtime handler {handler:?} is configured"))
            .hint(format!("there are {known}")))
    }
}

/// A new id: 64 random hexadecimal digits, as containerd's and docker's.
fn new_id() -> Result<String> {
    use crate::error::Doing;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .doing(|| "read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Nanoseconds since 1970, as the CRI has times. Never 0, which there means "not yet".
fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX).max(1)
}
