//! Pods and their containers, as the CRI has them.
//!
//! | part | its state | methods |
//! |---|---|---|
//! | `Host` | settings, directories, image store, networks | what all parts need of the node |
//! | `Sandboxes` | the pods by id | run, tear down, list |
//! | `Containers` | the containers by id | create, start, stop, exec, update, remove, list |
//! | `Stats`, `Metrics` | none; ask the parts above | ContainerStats, PodSandboxStats, ListPodSandboxMetrics |
//! | `Events` | what was announced last | announces changes to the listeners of GetContainerEvents |
//! | `Cadvisor` | the processes that cAdvisor was told | answers what cAdvisor asks of containerd |
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
mod cadvisor;
pub mod cdi;
mod container;
mod cri_error;
mod disposal;
mod events;
mod exits;
mod files;
mod happened;
pub mod histogram;
mod host;
mod interfaces;
mod layer_usage;
pub mod machine;
mod metrics;
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
use cadvisor::Cadvisor;
use container::{Container, Containers};
use events::Events;
use exits::Exits;
use histogram::Histogram;
use host::Host;
use metrics::Metrics;
use recover::Recovery;
use sandbox::{Sandbox, Sandboxes};
use stats::Stats;

/// How long RemovePodSandbox waits for containers that are still being created in the pod.
const LAST_CREATE: Duration = Duration::from_secs(10);

/// How long starts took since the daemon was started.
#[derive(Debug, Default)]
pub struct Starts {
    /// RunPodSandbox.
    pub pods: Histogram,
    /// StartContainer.
    pub containers: Histogram,
}

/// The pods of a node.
#[derive(Debug)]
pub struct Pods {
    host: Arc<Host>,
    sandboxes: Arc<Sandboxes>,
    containers: Arc<Containers>,
    stats: Stats,
    metrics: Metrics,
    starts: Starts,
    events: Arc<Events>,
    cadvisor: Arc<Cadvisor>,
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
        let events = Arc::new(Events::new(Arc::clone(&sandboxes), Arc::clone(&containers)));
        // What happened under an earlier daemon is not announced again.
        containers.all().iter().for_each(|container| events.of_container(container));
        sandboxes.all().iter().for_each(|sandbox| events.of_sandbox(sandbox));
        let parts = || (Arc::clone(&host), Arc::clone(&sandboxes), Arc::clone(&containers));
        let (own_host, own_sandboxes, own_containers) = parts();
        let cadvisor = Arc::new(Cadvisor::new(own_host, own_sandboxes, own_containers));
        let (own_host, own_sandboxes, own_containers) = parts();
        let reported = (Arc::clone(&events), Arc::clone(&cadvisor));
        let exits = Exits::start(own_host, own_sandboxes, own_containers, reported)?;
        let stats = Stats::new(Arc::clone(&host), Arc::clone(&containers));
        let metrics = Metrics::new(Arc::clone(&host), Arc::clone(&containers));
        Ok(Self {
            host,
            sandboxes,
            containers,
            stats,
            metrics,
            starts: Starts::default(),
            events,
            cadvisor,
            _exits: exits,
        })
    }

    /// Replaces the handlers and networks; operations already under way keep the old ones.
    pub fn reload(&self, offer: Arc<Offer>) {
        self.host.reload(offer);
    }

    /// How long starts took.
    pub fn starts(&self) -> &Starts {
        &self.starts
    }

    fn stop_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<()> {
        // First, so that no container is created or started in a pod that is being torn down. A full run directory must not keep
        // the pod from ending: the next daemon would find it ready, and kubelet would stop it again.
        if let Err(error) = sandbox.set_not_ready() {
            crate::log::warning(&error.doing(format!("record that pod {} is stopped", sandbox.id)).chain());
        }
        self.containers.stop_all_in(&sandbox.id)?;
        self.cadvisor.refresh(sandbox);
        self.sandboxes.tear_down(sandbox)?;
        // The thread that has recorded their exits may not have announced them yet.
        self.containers.in_pod(&sandbox.id).iter().for_each(|container| self.events.of_container(container));
        self.events.of_sandbox(sandbox);
        Ok(())
    }

    fn remove_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<()> {
        self.stop_sandbox(sandbox)?;
        sandbox.await_creates(LAST_CREATE)?;
        self.containers.in_pod(&sandbox.id).iter().try_for_each(|container| self.remove_one(container))?;
        self.sandboxes.remove(sandbox)?;
        self.events.of_sandbox(sandbox);
        Ok(())
    }

    fn remove_one(&self, container: &Container) -> Result<()> {
        self.containers.remove(container, || self.events.of_container(container))
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
