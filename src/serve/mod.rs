//! `coracle serve`: what kubelet asks of this node, answered.
//!
//! | file | holds |
//! |---|---|
//! | `daemon` | the process: its lock, its socket, signals, its end |
//! | `config` | what it can be told |
//! | `images`, `archives` | ImageService |
//! | `status` | `Version` and `Status` |
//! | `pods` | RuntimeService's pods and containers |
//! | `supervisor` | systemd: sockets that it hands over, what it is told |
//! | `error` | our errors in the CRI's terms |

mod archives;
pub mod config;
mod daemon;
mod error;
mod images;
mod pods;
mod status;
mod supervisor;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use coracle_cri::{Backend, Call, ContainerRequest, Result, SandboxRequest, v1};

pub use daemon::run;

use crate::net::cni::Cni;
use crate::store::Store;
use config::Config;
use images::Images;
use pods::Pods;

/// This machine, as kubelet sees it.
#[derive(Debug)]
pub struct Node {
    /// A reload puts another in its place; work that has begun goes on with what it began with.
    config: RwLock<Arc<Config>>,
    cni: Cni,
    images: Images,
    pods: Pods,
    kernel: status::Kernel,
}

impl Node {
    /// A node with this store.
    pub fn new(config: Config, store: Arc<Store>) -> Self {
        let kernel = status::Kernel::probe(store.root());
        Self {
            cni: Cni::new(config.cni_settings()),
            config: RwLock::new(Arc::new(config)),
            images: Images::new(store),
            pods: Pods::default(),
            kernel,
        }
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// From now on this configuration counts, as far as it can without a restart.
    fn reload(&self, config: Config) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
    }

    /// Brings in the archives that are there; who asks for an image that is missing waits for it.
    fn import_archives(self: &Arc<Self>) {
        let importing = self.images.begin_import();
        let node = Arc::clone(self);
        // It ends by itself, and what it has not done by then is done at the next start.
        std::thread::spawn(move || importing.run(&node.images, &node.config()));
    }
}

impl Backend for Node {
    fn version(&self) -> Result<v1::VersionResponse> {
        Ok(status::version())
    }

    fn status(&self, verbose: bool) -> Result<v1::StatusResponse> {
        Ok(status::status(&self.config(), &self.cni, self.kernel, verbose))
    }

    fn cgroup_driver(&self) -> Result<v1::CgroupDriver> {
        let is_systemd = self.config().cgroup_driver.is_systemd();
        Ok(if is_systemd { v1::CgroupDriver::Systemd } else { v1::CgroupDriver::Cgroupfs })
    }

    /// CNI configurations name their ranges themselves.
    fn update_pod_cidr(&self, _cidr: &str) -> Result<()> {
        Ok(())
    }

    fn run_pod_sandbox(&self, request: &SandboxRequest) -> Result<String> {
        self.pods.run_pod_sandbox(request)
    }

    fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        self.pods.stop_pod_sandbox(id)
    }

    fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        self.pods.remove_pod_sandbox(id)
    }

    fn pod_sandbox_status(&self, id: &str, verbose: bool) -> Result<v1::PodSandboxStatusResponse> {
        self.pods.pod_sandbox_status(id, verbose)
    }

    fn list_pod_sandboxes(&self) -> Result<Vec<v1::PodSandbox>> {
        self.pods.list_pod_sandboxes()
    }

    fn update_pod_sandbox_resources(&self, request: &v1::UpdatePodSandboxResourcesRequest) -> Result<()> {
        self.pods.update_pod_sandbox_resources(request)
    }

    fn pod_sandbox_stats(&self, id: &str) -> Result<v1::PodSandboxStats> {
        self.pods.pod_sandbox_stats(id)
    }

    fn create_container(&self, request: &ContainerRequest) -> Result<String> {
        self.pods.create_container(request)
    }

    fn start_container(&self, id: &str) -> Result<()> {
        self.pods.start_container(id)
    }

    fn stop_container(&self, id: &str, grace: Duration, call: &Call) -> Result<()> {
        self.pods.stop_container(id, grace, call)
    }

    fn remove_container(&self, id: &str) -> Result<()> {
        self.pods.remove_container(id)
    }

    fn container_status(&self, id: &str, verbose: bool) -> Result<v1::ContainerStatusResponse> {
        self.pods.container_status(id, verbose)
    }

    fn list_containers(&self) -> Result<Vec<v1::Container>> {
        self.pods.list_containers()
    }

    fn update_container_resources(&self, request: &v1::UpdateContainerResourcesRequest) -> Result<()> {
        self.pods.update_container_resources(request)
    }

    fn reopen_container_log(&self, id: &str) -> Result<()> {
        self.pods.reopen_container_log(id)
    }

    fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
        call: &Call,
    ) -> Result<v1::ExecSyncResponse> {
        self.pods.exec_sync(id, command, timeout, call)
    }

    fn container_stats(&self, id: &str) -> Result<v1::ContainerStats> {
        self.pods.container_stats(id)
    }

    fn list_images(&self, image: Option<&v1::ImageSpec>) -> Result<Vec<v1::Image>> {
        Ok(self.images.list(&self.config(), image)?)
    }

    fn image_status(&self, image: &v1::ImageSpec, verbose: bool) -> Result<v1::ImageStatusResponse> {
        Ok(self.images.status(&self.config(), image, verbose)?)
    }

    fn pull_image(
        &self,
        image: &v1::ImageSpec,
        auth: Option<&v1::AuthConfig>,
        call: &Call,
    ) -> Result<String> {
        Ok(self.images.pull(&self.config(), image, auth, call)?)
    }

    fn remove_image(&self, image: &v1::ImageSpec) -> Result<()> {
        Ok(self.images.remove(image)?)
    }

    fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse> {
        Ok(self.images.fs_info()?)
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
