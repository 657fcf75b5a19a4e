//! The traits that a node implements: the CRI without gRPC.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crate::call::Call;
use crate::containerd;
use crate::error::{Error, Kind, Result};
use crate::events::EventHub;
use crate::streaming::{Attachment, Process};
use crate::v1;

/// A node that runs pods, in two parts like the CRI's two services. Every method may block: it is called on a thread for
/// blocking work, never on the server's. Ids are full ids or unique prefixes, as crictl sends them; they are never empty.
pub trait Backend: Send + Sync + 'static {
    /// Implements RuntimeService.
    type Runtime: RuntimeBackend;
    /// Implements ImageService.
    type Image: ImageBackend;

    /// Pods and containers.
    fn runtime(&self) -> &Self::Runtime;

    /// Images.
    fn image(&self) -> &Self::Image;

    /// Name and version; all four fields are set, and the API version is `v1`.
    fn version(&self) -> Result<v1::VersionResponse>;

    /// `RuntimeReady`, `NetworkReady`, and an entry for each runtime handler, with `""` for the default one.
    fn status(&self, verbose: bool) -> Result<v1::StatusResponse>;

    /// The cgroup driver.
    fn cgroup_driver(&self) -> Result<v1::CgroupDriver>;

    /// The address range for pods that kubelet got from the control plane.
    fn update_pod_cidr(&self, cidr: &str) -> Result<()>;

    /// Called some seconds after a burst of calls, to return memory to the system.
    fn give_back(&self) {}

    /// Called once for every failed call, with its gRPC code, to log it.
    fn failed(&self, _rpc: &str, _code: &str, _message: &str) {}
}

/// Pods and their containers.
///
/// Calls for one pod or container may be concurrent. The server makes the retry of a slow call wait for the first one: equal
/// calls of `run_pod_sandbox`, `create_container`, `start_container`, `stop_pod_sandbox`, `remove_pod_sandbox` and
/// `remove_container` never run concurrently.
pub trait RuntimeBackend {
    /// Starts a pod completely or not at all, and returns its id. If a ready pod with the same metadata and configuration
    /// exists, its id is returned: the first call may have finished after its caller had given up. `handler` names the
    /// runtime handler; an unknown one is refused, `""` is the default.
    fn run_pod_sandbox(&self, config: &v1::PodSandboxConfig, handler: &str) -> Result<String>;

    /// Stops a pod's containers and detaches its network. A pod that does not exist or is stopped is no error.
    fn stop_pod_sandbox(&self, id: &str) -> Result<()>;

    /// Removes a pod with its containers, by force. A pod that does not exist is no error.
    fn remove_pod_sandbox(&self, id: &str) -> Result<()>;

    /// The status of a pod; `NotFound` if it does not exist.
    fn pod_sandbox_status(&self, id: &str, verbose: bool) -> Result<v1::PodSandboxStatusResponse>;

    /// All pods, from memory; the server filters.
    fn list_pod_sandboxes(&self) -> Result<Vec<v1::PodSandbox>>;

    /// Sets a pod's limits, after its containers were resized in place.
    fn update_pod_sandbox_resources(&self, request: &v1::UpdatePodSandboxResourcesRequest) -> Result<()>;

    /// The resource usage of a pod.
    fn pod_sandbox_stats(&self, id: &str) -> Result<v1::PodSandboxStats>;

    /// Creates a container, without starting it, and returns its id. If a created container with the same metadata and
    /// configuration exists in the pod, its id is returned.
    fn create_container(&self, sandbox_id: &str, config: &v1::ContainerConfig) -> Result<String>;

    /// Starts a created container. If that fails, the container becomes exited, with the reason in its status.
    fn start_container(&self, id: &str) -> Result<()>;

    /// Stops a container: its stop signal, `grace`, then SIGKILL; SIGKILL at once if `grace` is zero. A second call with a
    /// shorter grace period shortens the wait of the first. A container that does not exist or has exited is no error.
    fn stop_container(&self, id: &str, grace: Duration, call: &Call) -> Result<()>;

    /// Removes a container, by force. A container that does not exist is no error.
    fn remove_container(&self, id: &str) -> Result<()>;

    /// The status of a container; `NotFound` if it does not exist.
    fn container_status(&self, id: &str, verbose: bool) -> Result<v1::ContainerStatusResponse>;

    /// All containers, from memory; the server filters.
    fn list_containers(&self) -> Result<Vec<v1::Container>>;

    /// Changes the limits of a created or running container.
    fn update_container_resources(&self, request: &v1::UpdateContainerResourcesRequest) -> Result<()>;

    /// Reopens a container's log after kubelet has renamed it.
    fn reopen_container_log(&self, id: &str) -> Result<()>;

    /// Runs a command in a container and returns its output. After `timeout` all of its processes are killed and the error
    /// is `TimedOut`; `None` is no limit. A non-zero exit code is no error.
    fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
        call: &Call,
    ) -> Result<v1::ExecSyncResponse>;

    /// The resource usage of a container; `NotFound` if it does not exist.
    fn container_stats(&self, id: &str) -> Result<v1::ContainerStats>;

    /// The descriptors of all metrics in `pod_sandbox_metrics`.
    fn metric_descriptors(&self) -> Result<Vec<v1::MetricDescriptor>> {
        Err(Error::unimplemented("ListMetricDescriptors"))
    }

    /// The metrics of a pod and of its containers. Each has a value, and as many labels as its descriptor: kubelet panics
    /// without the former, and drops a metric without the latter.
    fn pod_sandbox_metrics(&self, _id: &str) -> Result<v1::PodSandboxMetrics> {
        Err(Error::unimplemented("ListPodSandboxMetrics"))
    }

    /// The listeners for changes of pods and containers. None where the node publishes none.
    fn events(&self) -> Option<&Arc<EventHub>> {
        None
    }

    /// A pod or container by its whole id, for cAdvisor; `NotFound` if it does not exist. A container must be found before its
    /// cgroup is created: cAdvisor never asks again about a cgroup that was not known at first.
    fn containerd_record(&self, _id: &str) -> Result<containerd::Record> {
        Err(Error::unimplemented("Containers.Get"))
    }

    /// The process of a pod or container by its whole id, for cAdvisor. `NotFound` if there is none yet; cAdvisor then asks
    /// again for some seconds, and does nothing else meanwhile.
    fn containerd_task(&self, _id: &str) -> Result<containerd::Task> {
        Err(Error::unimplemented("Tasks.Get"))
    }

    /// Checks that a container runs, before a URL for a command or an attachment is given out.
    fn expect_running(&self, _container_id: &str) -> Result<()> {
        Err(Error::unimplemented("streaming"))
    }

    /// Checks that a pod is ready, before a URL for a port-forward is given out.
    fn expect_ready(&self, _sandbox_id: &str) -> Result<()> {
        Err(Error::unimplemented("streaming"))
    }

    /// Starts a command with the streams that are requested; the others are connected to nothing.
    fn exec(&self, _request: &v1::ExecRequest) -> Result<Process> {
        Err(Error::unimplemented("Exec"))
    }

    /// Attaches to a container's own process; `stdin` says whether the client sends input.
    fn attach(&self, _container_id: &str, _stdin: bool) -> Result<Box<dyn Attachment>> {
        Err(Error::unimplemented("Attach"))
    }

    /// A TCP socket in the network of a pod, not connected, of IPv6 or else of IPv4.
    fn socket_in_pod(&self, _sandbox_id: &str, _ipv6: bool) -> Result<OwnedFd> {
        Err(Error::unimplemented("PortForward"))
    }
}

/// Images. Equal calls of `pull_image` never run concurrently.
pub trait ImageBackend {
    /// All images that the filter selects: the server does not filter these, because only the store knows which names refer
    /// to the same image.
    fn list_images(&self, image: Option<&v1::ImageSpec>) -> Result<Vec<v1::Image>>;

    /// An image by id, prefix of an id, tag or digest. A missing image is no error: the response has none then.
    fn image_status(&self, image: &v1::ImageSpec, verbose: bool) -> Result<v1::ImageStatusResponse>;

    /// Pulls an image and returns its id, as in `list_images`.
    fn pull_image(&self, image: &v1::ImageSpec, auth: Option<&v1::AuthConfig>, call: &Call)
    -> Result<String>;

    /// Removes an image with all its names. A missing image is no error.
    fn remove_image(&self, image: &v1::ImageSpec) -> Result<()>;

    /// The disk usage of images and writable layers, without a walk over them.
    fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse>;
}

/// Whether an error for one item of a list only means that the item was removed in the meantime.
pub(crate) fn has_vanished(error: &Error) -> bool {
    matches!(error.kind, Kind::NotFound | Kind::WrongState)
}
