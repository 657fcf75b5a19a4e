//! Pods and their containers, as the CRI has them.
//!
//! | part | its state | methods |
//! |---|---|---|
//! | `Host` | settings, directories, image store, networks | what all parts need of the node |
//! | `Sandboxes` | the pods by id | run, tear down, list |
//! | `Containers` | the containers by id | create, start, stop, exec, update, remove, list |
//! | `Stats` | none; asks the parts above | ContainerStats, PodSandboxStats |
//! | `Exits` | none; a thread holds it weakly | receives exits from the keeper |
//! | `Recovery` | only while the daemon starts | reads the records, undoes interrupted operations |
//!
//! `Pods` only composes them. On disk, in the run directory:
//!
//! ```text
//! run/pods/<pod>/config                  the configuration as kubelet sent it
//! run/pods/<pod>/request, record         the request parsed from it; the state of the pod
//! run/pods/<pod>/net, ipc, uts, pid      pinned namespaces: no process is needed to hold them
//! run/pods/<pod>/shm, resolv.conf, ...   what is bind-mounted into its containers
//! run/pods/<pod>/containers/<id>/        the same for a container
//! ```
//!
//! The run directory is a tmpfs, so a reboot loses these files together with the pods. A record is written last and removed
//! first: a directory without one is left over from an interrupted operation and is removed when the daemon starts.
//!
//! All functions here block and may be called from several threads. Lists are answered from memory.

mod abort;
mod backend;
pub mod cdi;
mod container;
mod cri_error;
mod disposal;
mod exits;
mod files;
mod host;
mod layer_usage;
pub mod machine;
mod records;
mod recover;
pub mod request_from_cri;
mod requests;
mod run_in_keeper;
mod sandbox;
mod stats;
pub mod summary;
mod table;
mod volumes;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use cri_error::one_line;
pub use host::{Offer, Settings};

use crate::error::Result;
use crate::store::Store;
use container::Containers;
use exits::Exits;
use host::Host;
use recover::Recovery;
use sandbox::{Sandbox, Sandboxes};
use stats::Stats;

/// How long RemovePodSandbox waits for containers that are still being created in the pod.
const LAST_CREATE: Duration = Duration::from_secs(10);

/// The pods of a node.
#[derive(Debug)]
pub struct Pods {
    host: Arc<Host>,
    sandboxes: Arc<Sandboxes>,
    containers: Arc<Containers>,
    stats: Stats,
    /// The thread that receives exits ends when this is dropped.
    _exits: Arc<Exits>,
}

impl Pods {
    /// Loads the pods that the run directory has records of, undoes interrupted operations, and starts the thread that
    /// receives exits from the keeper.
    ///
    /// # Errors
    /// The run directory cannot be read or written, or the keeper cannot be reached.
    pub fn open(settings: Settings, offer: Arc<Offer>, store: Arc<Store>) -> Result<Self> {
        let host = Arc::new(Host::open(settings, offer, store)?);
        let sandboxes = Arc::new(Sandboxes::new(Arc::clone(&host)));
        let containers = Arc::new(Containers::new(Arc::clone(&host)));
        Recovery { host: &host, sandboxes: &sandboxes, containers: &containers }.run()?;
        let exits = Exits::start(Arc::clone(&host), Arc::clone(&sandboxes), Arc::clone(&containers))?;
        let stats = Stats::new(Arc::clone(&host), Arc::clone(&containers));
        Ok(Self { host, sandboxes, containers, stats, _exits: exits })
    }

    /// Replaces the handlers and networks; operations already under way keep the old ones.
    pub fn reload(&self, offer: Arc<Offer>) {
        self.host.reload(offer);
    }

    fn stop_sandbox(&self, sandbox: &Sandbox) -> Result<()> {
        // First, so that no container is created or started in a pod that is being torn down. A full run directory must not keep
        // the pod from ending: the next daemon would find it ready, and kubelet would stop it again.
        if let Err(error) = sandbox.set_not_ready() {
            crate::log::warning(&error.doing(format!("record that pod {} is stopped", sandbox.id)).chain());
        }
        self.containers.stop_all_in(&sandbox.id)?;
        self.sandboxes.tear_down(sandbox)
    }

    fn remove_sandbox(&self, sandbox: &Sandbox) -> Result<()> {
        self.stop_sandbox(sandbox)?;
        sandbox.await_creates(LAST_CREATE)?;
        self.containers.remove_all_in(&sandbox.id)?;
        self.sandboxes.remove(sandbox)
    }
}

/// A new id: 64 random hexadecimal digits, as in containerd and docker.
fn new_id() -> Result<String> {
    use crate::error::Doing;
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes))
        .doing(|| "read /dev/urandom")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The time in nanoseconds since 1970, as in CRI messages. Never 0, which means "not yet" there.
fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX).max(1)
}
