//! `coracle serve`: the daemon that serves kubelet on this node.
//!
//! | file | holds |
//! |---|---|
//! | `daemon` | the process: lock, signals, shutdown |
//! | `socket` | unix sockets |
//! | `config` | its configuration |
//! | `images`, `archives` | ImageService; RuntimeService is in `pod::backend` |
//! | `containerd_socket` | where cAdvisor asks for labels |
//! | `metrics` | metrics of the daemon itself |
//! | `progress` | logs the warnings of pulls and imports |
//! | `recent` | the last warnings, for `coracle status` |
//! | `running` | whether the daemon runs, without connecting to it |
//! | `status` | `Version` and `Status` |
//! | `streaming` | the address of the server for exec, attach and port-forward, and its TLS |
//! | `supervisor` | systemd: socket activation and notifications |

mod archives;
pub mod config;
mod containerd_socket;
mod daemon;
mod images;
mod metrics;
mod progress;
pub mod recent;
pub(crate) mod running;
mod socket;
mod status;
mod streaming;
mod supervisor;

use std::sync::{Arc, PoisonError, RwLock};

use coracle_cri::{Backend, Result, v1};

pub use daemon::run;
pub(crate) use status::maps_ids;

use crate::image::registry;
use crate::net::cni::Cni;
use crate::pod::{Offer, Pods, Settings};
use crate::store::Store;
use archives::{Retry, Watch};
use config::{Config, HandlerKind};
use images::Images;

/// The configuration in force. A reload replaces it; calls under way keep the old one.
#[derive(Debug)]
struct Current {
    config: Arc<Config>,
    offer: Arc<Offer>,
}

impl Current {
    fn new(config: Config) -> Self {
        let gets_gpus = |kind| kind == HandlerKind::Nvidia;
        let handlers = config.handlers.iter().map(|(name, handler)| (name.clone(), gets_gpus(handler.kind)));
        let offer = Offer { handlers: handlers.collect(), cni: Cni::new(config.cni_settings()) };
        Self { offer: Arc::new(offer), config: Arc::new(config) }
    }
}

/// The node: implements the CRI for kubelet.
#[derive(Debug)]
pub struct Node {
    current: RwLock<Arc<Current>>,
    images: Images,
    pods: Pods,
    counters: metrics::Counters,
    kernel: status::Kernel,
}

impl Node {
    /// A node with this store and with the pods that are already running.
    ///
    /// # Errors
    /// The run directory cannot be used, or the keeper cannot be reached.
    pub fn new(config: Config, store: Arc<Store>) -> crate::error::Result<Self> {
        let settings = Settings {
            run: config.run.clone(),
            root: config.root.clone(),
            cache: config.run.join("cache"),
            systemd_cgroup: config.cgroup_driver.is_systemd(),
            layers_in_memory: config.state_on_tmpfs,
            seccomp: config.security.seccomp,
            apparmor: config.security.apparmor,
            selinux: config.security.selinux,
            serves_cadvisor: config.containerd_socket().is_some(),
            unprivileged_ports: config.security.unprivileged_ports,
            unprivileged_icmp: config.security.unprivileged_icmp,
        };
        let kernel = status::Kernel::probe(store.root());
        warn_of_ignored_registries(&config);
        let current = Current::new(config);
        let images_config = Arc::clone(&current.config);
        let pods = Pods::open(settings, Arc::clone(&current.offer), Arc::clone(&store))?;
        let counters = metrics::Counters::default();
        Ok(Self {
            current: RwLock::new(Arc::new(current)),
            images: Images::new(store, images_config, Arc::clone(&counters.pulls)),
            pods,
            counters,
            kernel,
        })
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Replaces the reloadable part of the configuration.
    fn reload(&self, config: Config) {
        warn_of_ignored_registries(&config);
        let current = Current::new(config);
        self.pods.reload(Arc::clone(&current.offer));
        self.images.reload(Arc::clone(&current.config));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }

    /// Watches the directories of archives.
    fn watch_archives(&self) -> Watch {
        Watch::new(&self.current().config.images.import_dirs)
    }

    /// Imports new archives in a thread that ends with it; ImageStatus of a missing image waits for it.
    fn import_archives(self: &Arc<Self>, retry: Retry) {
        let Some(importing) = self.images.begin_import(retry) else { return };
        let node = Arc::clone(self);
        // The thread is not joined: the next start imports what this one does not finish. If no thread can be created,
        // `importing` is dropped, which ends the import for those that wait for it.
        let thread = std::thread::Builder::new().name("archives".to_owned());
        let started = thread.spawn(move || importing.run(node.images.store(), || node.images.config()));
        if let Err(error) = started {
            crate::log::warning(&format!(
                "start a thread to import archives: {error}; the next start, reload or change tries again"
            ));
        }
    }
}

/// Logs what K3s's registries.yaml has that has no effect here.
fn warn_of_ignored_registries(config: &Config) {
    let path = &config.registry.k3s_registries;
    match registry::ignored_k3s_settings(path) {
        Ok(messages) => {
            for message in messages {
                crate::log::warning(&format!("{}: {message}", path.display()));
            }
        }
        Err(error) => crate::log::warning(&crate::pod::one_line(&error)),
    }
}

impl Backend for Node {
    type Runtime = Pods;
    type Image = Images;

    fn runtime(&self) -> &Pods {
        &self.pods
    }

    fn image(&self) -> &Images {
        &self.images
    }

    fn version(&self) -> Result<v1::VersionResponse> {
        Ok(status::version())
    }

    fn status(&self, verbose: bool) -> Result<v1::StatusResponse> {
        let current = self.current();
        Ok(status::status(&current.config, &current.offer.cni, self.kernel, verbose))
    }

    fn cgroup_driver(&self) -> Result<v1::CgroupDriver> {
        let is_systemd = self.current().config.cgroup_driver.is_systemd();
        Ok(if is_systemd { v1::CgroupDriver::Systemd } else { v1::CgroupDriver::Cgroupfs })
    }

    /// Nothing to do: CNI configurations contain their address ranges.
    fn update_pod_cidr(&self, _cidr: &str) -> Result<()> {
        Ok(())
    }

    fn give_back(&self) {
        crate::sys::memory::trim_allocator();
        // A burst of many kinds of calls has mapped most of the code, and what comes next is mostly a few of them.
        crate::sys::memory::unmap_code();
    }

    fn failed(&self, rpc: &str, code: &str, message: &str) {
        self.counters.errors.count(rpc, code);
        let line = format!("{rpc}: {code}: {message}");
        match code {
            // Expected: kubelet uses these calls to check what is gone and what a runtime does not implement.
            "NotFound" | "Unimplemented" => crate::log::debug(&line),
            _ => crate::log::warning(&line),
        }
    }
}
