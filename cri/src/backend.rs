//! What a node has to be able to do: the CRI in domain terms, without gRPC.

use std::time::Duration;

use crate::call::Call;
use crate::error::{Error, Kind, Result};
use crate::v1;

/// A node that runs pods, in two parts as the CRI has its two services. Every method may block: it is called on a thread for
/// blocking work, never on the server's. Ids are the full ones or a unique prefix, as crictl sends them; they are never
/// empty.
pub trait Backend: Send + Sync + 'static {
    /// What answers for pods and containers.
    type Runtime: RuntimeBackend;
    /// What answers for images.
    type Image: ImageBackend;

    /// Pods and containers.
    fn runtime(&self) -> &Self::Runtime;

    /// Images.
    fn image(&self) -> &Self::Image;

    /// Name and version; all four fields are set, and the API version is `v1`.
    fn version(&self) -> Result<v1::VersionResponse>;

    /// `RuntimeReady`, `NetworkReady`, and a row for each runtime handler, with `""` for the default one.
    fn status(&self, verbose: bool) -> Result<v1::StatusResponse>;

    /// Which cgroup driver pods are placed with.
    fn cgroup_driver(&self) -> Result<v1::CgroupDriver>;

    /// The range of addresses kubelet was given for pods.
    fn update_pod_cidr(&self, cidr: &str) -> Result<()>;

    /// Called some seconds after much was asked: the place to give memory back to the system.
    fn give_back(&self) {}

    /// Told of every call that failed, once, with its gRPC code: the place to log it.
    fn failed(&self, _rpc: &str, _code: &str, _message: &str) {}
}

/// Pods and their containers.
///
/// Two calls for one pod or container may come at the same time. The server lets the retry of a slow call wait for the first
/// one: equal calls of `run_pod_sandbox`, `create_container`, `start_container`, `stop_pod_sandbox`, `remove_pod_sandbox`
/// and `remove_container` do not run side by side.
pub trait RuntimeBackend {
    /// Starts a pod, all or nothing, and answers its id. When a ready pod with the same metadata and configuration
    /// exists, it is the answer: the first call may have finished after its caller had given up. `handler` names the runtime
    /// handler; an unknown one is refused, `""` is the default one.
    fn run_pod_sandbox(&self, config: &v1::PodSandboxConfig, handler: &str) -> Result<String>;

    /// Ends a pod's containers and its network. One that does not exist or is stopped is no error.
    fn stop_pod_sandbox(&self, id: &str) -> Result<()>;

    /// Removes a pod with its containers, by force. One that does not exist is no error.
    fn remove_pod_sandbox(&self, id: &str) -> Result<()>;

    /// A pod's status; `NotFound` when there is none.
    fn pod_sandbox_status(&self, id: &str, verbose: bool) -> Result<v1::PodSandboxStatusResponse>;

    /// All pods, from memory; the server filters.
    fn list_pod_sandboxes(&self) -> Result<Vec<v1::PodSandbox>>;

    /// A pod's new limits, after its containers were resized in place.
    fn update_pod_sandbox_resources(&self, request: &v1::UpdatePodSandboxResourcesRequest) -> Result<()>;

    /// What a pod uses.
    fn pod_sandbox_stats(&self, id: &str) -> Result<v1::PodSandboxStats>;

    /// Creates a container, without starting it, and answers its id. When a created container with the same metadata
    /// and configuration exists in the pod, it is the answer.
    fn create_container(&self, sandbox_id: &str, config: &v1::ContainerConfig) -> Result<String>;

    /// Starts a created container. When that fails the container is exited, with the reason in its status.
    fn start_container(&self, id: &str) -> Result<()>;

    /// Ends a container: its stop signal, `grace`, then SIGKILL; at once when `grace` is zero. A second call with a
    /// shorter grace shortens the wait of the first. One that does not exist or has exited is no error.
    fn stop_container(&self, id: &str, grace: Duration, call: &Call) -> Result<()>;

    /// Removes a container, by force. One that does not exist is no error.
    fn remove_container(&self, id: &str) -> Result<()>;

    /// A container's status; `NotFound` when there is none.
    fn container_status(&self, id: &str, verbose: bool) -> Result<v1::ContainerStatusResponse>;

    /// All containers, from memory; the server filters.
    fn list_containers(&self) -> Result<Vec<v1::Container>>;

    /// New limits for a created or running container.
    fn update_container_resources(&self, request: &v1::UpdateContainerResourcesRequest) -> Result<()>;

    /// Opens a container's log again after it was renamed.
    fn reopen_container_log(&self, id: &str) -> Result<()>;

    /// Runs a command in a container and answers its output. After `timeout` all of its processes are killed and the
    /// answer is `TimedOut`; `None` is no limit. The command's own exit code is no error.
    fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
        call: &Call,
    ) -> Result<v1::ExecSyncResponse>;

    /// What a container uses; `NotFound` when there is none.
    fn container_stats(&self, id: &str) -> Result<v1::ContainerStats>;

    /// The URL of a prepared exec.
    fn exec(&self, _request: &v1::ExecRequest) -> Result<String> {
        Err(Error::unimplemented("Exec"))
    }

    /// The URL of a prepared attach.
    fn attach(&self, _request: &v1::AttachRequest) -> Result<String> {
        Err(Error::unimplemented("Attach"))
    }

    /// The URL of a prepared port-forward.
    fn port_forward(&self, _request: &v1::PortForwardRequest) -> Result<String> {
        Err(Error::unimplemented("PortForward"))
    }
}

/// Images. Equal calls of `pull_image` do not run side by side.
pub trait ImageBackend {
    /// All images; the server does not filter these, for only the store knows which names mean the same image.
    fn list_images(&self, image: Option<&v1::ImageSpec>) -> Result<Vec<v1::Image>>;

    /// An image by id, prefix of an id, tag or digest; none in the answer is no error.
    fn image_status(&self, image: &v1::ImageSpec, verbose: bool) -> Result<v1::ImageStatusResponse>;

    /// Pulls an image and answers its id, the one that `list_images` has.
    fn pull_image(&self, image: &v1::ImageSpec, auth: Option<&v1::AuthConfig>, call: &Call)
    -> Result<String>;

    /// Removes an image with all its names. One that does not exist is no error.
    fn remove_image(&self, image: &v1::ImageSpec) -> Result<()>;

    /// What images and writable layers take on disk, without walking it.
    fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse>;
}

/// Whether a failure to look at one thing of a list only means that the thing has gone meanwhile.
pub(crate) fn has_vanished(error: &Error) -> bool {
    matches!(error.kind, Kind::NotFound | Kind::WrongState)
}
