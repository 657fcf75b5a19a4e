//! `coracle serve`: what kubelet asks of this node, answered.
//!
//! | file | holds |
//! |---|---|
//! | `daemon` | the process: its lock, its socket, signals, its end |
//! | `config` | what it can be told |
//! | `images`, `archives` | ImageService |
//! | `status` | `Version` and `Status` |
//! | `supervisor` | systemd: sockets that it hands over, what it is told |
//! | `error` | our errors in the CRI's terms |

mod archives;
pub mod config;
mod daemon;
mod error;
mod images;
mod status;
mod supervisor;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use coracle_cri::{Backend, Call, Result, v1};

pub use daemon::run;

use crate::net::cni::Cni;
use crate::pod::{Offer, Pods, Settings};
use crate::store::Store;
use config::{Config, HandlerKind};
use images::Images;

/// What counts now; a reload puts another in its place, and work that has begun goes on with what it began with.
#[derive(Debug)]
struct Current {
    config: Config,
    offer: Arc<Offer>,
}

impl Current {
    fn new(config: Config) -> Self {
        let gets_gpus = |kind| kind == HandlerKind::Nvidia;
        let handlers = config.handlers.iter().map(|(name, handler)| (name.clone(), gets_gpus(handler.kind)));
        let offer = Offer { handlers: handlers.collect(), cni: Cni::new(config.cni_settings()) };
        Self { offer: Arc::new(offer), config }
    }
}

/// This machine, as kubelet sees it.
#[derive(Debug)]
pub struct Node {
    current: RwLock<Arc<Current>>,
    images: Images,
    pods: Arc<Pods>,
    kernel: status::Kernel,
}

impl Node {
    /// A node with this store, and with the pods that run already.
    ///
    /// # Errors
    /// The run directory cannot be used, or the keeper not be reached.
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
        };
        let kernel = status::Kernel::probe(store.root());
        let current = Current::new(config);
        let pods = Pods::open(settings, Arc::clone(&current.offer), Arc::clone(&store))?;
        Ok(Self { current: RwLock::new(Arc::new(current)), images: Images::new(store), pods, kernel })
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this configuration counts, as far as it can without a restart.
    fn reload(&self, config: Config) {
        let current = Current::new(config);
        self.pods.reload(Arc::clone(&current.offer));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(current);
    }

    /// Brings in the archives that are there; who asks for an image that is missing waits for it.
    fn import_archives(self: &Arc<Self>) {
        let importing = self.images.begin_import();
        let node = Arc::clone(self);
        // It ends by itself, and what it has not done by then is done at the next start. Without a thread nobody waits for
        // it either: `importing` ends as it is dropped.
        let thread = std::thread::Builder::new().name("archives".to_owned());
        let started = thread.spawn(move || importing.run(&node.images, &node.current().config));
        if let Err(error) = started {
            crate::log::warning(&format!(
                "archives of images are not imported until the next start or reload: start a thread: {error}"
            ));
        }
    }
}

impl Backend for Node {
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

    /// CNI configurations name their ranges themselves.
    fn update_pod_cidr(&self, _cidr: &str) -> Result<()> {
        Ok(())
    }

    fn run_pod_sandbox(&self, config: &v1::PodSandboxConfig, handler: &str) -> Result<String> {
        Ok(self.pods.run_sandbox(config, handler)?)
    }

    fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        Ok(self.pods.stop_sandbox(id)?)
    }

    fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        Ok(self.pods.remove_sandbox(id)?)
    }

    fn pod_sandbox_status(&self, id: &str, verbose: bool) -> Result<v1::PodSandboxStatusResponse> {
        Ok(self.pods.sandbox_status(id, verbose)?)
    }

    fn list_pod_sandboxes(&self) -> Result<Vec<v1::PodSandbox>> {
        Ok(self.pods.list_sandboxes())
    }

    /// The pod's own cgroup is kubelet's, and so are its limits: nothing is left to be done here.
    fn update_pod_sandbox_resources(&self, request: &v1::UpdatePodSandboxResourcesRequest) -> Result<()> {
        self.pods.sandbox_status(&request.pod_sandbox_id, false).map(drop).map_err(Into::into)
    }

    fn pod_sandbox_stats(&self, id: &str) -> Result<v1::PodSandboxStats> {
        Ok(self.pods.sandbox_stats(id)?)
    }

    fn create_container(&self, sandbox_id: &str, config: &v1::ContainerConfig) -> Result<String> {
        Ok(self.pods.create_container(sandbox_id, config)?)
    }

    fn start_container(&self, id: &str) -> Result<()> {
        Ok(self.pods.start_container(id)?)
    }

    fn stop_container(&self, id: &str, grace: Duration, call: &Call) -> Result<()> {
        Ok(self.pods.stop_container(id, grace, call)?)
    }

    fn remove_container(&self, id: &str) -> Result<()> {
        Ok(self.pods.remove_container(id)?)
    }

    fn container_status(&self, id: &str, verbose: bool) -> Result<v1::ContainerStatusResponse> {
        Ok(self.pods.container_status(id, verbose)?)
    }

    fn list_containers(&self) -> Result<Vec<v1::Container>> {
        Ok(self.pods.list_containers())
    }

    fn update_container_resources(&self, request: &v1::UpdateContainerResourcesRequest) -> Result<()> {
        Ok(self.pods.update_container(request)?)
    }

    fn reopen_container_log(&self, id: &str) -> Result<()> {
        Ok(self.pods.reopen_log(id)?)
    }

    fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
        call: &Call,
    ) -> Result<v1::ExecSyncResponse> {
        Ok(self.pods.exec_sync(id, command, timeout, call)?)
    }

    fn container_stats(&self, id: &str) -> Result<v1::ContainerStats> {
        Ok(self.pods.container_stats(id)?)
    }

    fn list_images(&self, image: Option<&v1::ImageSpec>) -> Result<Vec<v1::Image>> {
        Ok(self.images.list(&self.current().config, image)?)
    }

    fn image_status(&self, image: &v1::ImageSpec, verbose: bool) -> Result<v1::ImageStatusResponse> {
        Ok(self.images.status(&self.current().config, image, verbose)?)
    }

    fn pull_image(
        &self,
        image: &v1::ImageSpec,
        auth: Option<&v1::AuthConfig>,
        call: &Call,
    ) -> Result<String> {
        Ok(self.images.pull(&self.current().config, image, auth, call)?)
    }

    fn remove_image(&self, image: &v1::ImageSpec) -> Result<()> {
        Ok(self.images.remove(image)?)
    }

    fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse> {
        Ok(self.images.fs_info()?)
    }

    fn give_back(&self) {
        crate::sys::memory::trim_allocator();
    }

    fn failed(&self, rpc: &str, code: &str, message: &str) {
        let line = format!("{rpc}: {code}: {message}");
        match code {
            // kubelet looks so for what has gone, and for what a runtime does not offer.
            "NotFound" | "Unimplemented" => crate::log::debug(&line),
            _ => crate::log::warning(&line),
        }
    }
}
