//! RuntimeService's pods and containers. None can be run yet: each call says so.

use std::time::Duration;

use coracle_cri::{Call, ContainerRequest, Error, Result, SandboxRequest, v1};

/// The pods of this node.
#[derive(Debug, Default)]
pub(super) struct Pods {}

/// Methods with the arguments of the backend's, all of which answer that the call is not offered.
macro_rules! not_offered {
    ($($name:ident($($argument:ty),*) -> $answer:ty;)*) => {
        impl Pods {
            $(pub(super) fn $name(&self, $(_: $argument),*) -> Result<$answer> {
                Err(Error::unimplemented(stringify!($name)))
            })*
        }
    };
}

not_offered! {
    run_pod_sandbox(&SandboxRequest) -> String;
    stop_pod_sandbox(&str) -> ();
    remove_pod_sandbox(&str) -> ();
    pod_sandbox_status(&str, bool) -> v1::PodSandboxStatusResponse;
    list_pod_sandboxes() -> Vec<v1::PodSandbox>;
    update_pod_sandbox_resources(&v1::UpdatePodSandboxResourcesRequest) -> ();
    pod_sandbox_stats(&str) -> v1::PodSandboxStats;
    create_container(&ContainerRequest) -> String;
    start_container(&str) -> ();
    stop_container(&str, Duration, &Call) -> ();
    remove_container(&str) -> ();
    container_status(&str, bool) -> v1::ContainerStatusResponse;
    list_containers() -> Vec<v1::Container>;
    update_container_resources(&v1::UpdateContainerResourcesRequest) -> ();
    reopen_container_log(&str) -> ();
    exec_sync(&str, &[String], Option<Duration>, &Call) -> v1::ExecSyncResponse;
    container_stats(&str) -> v1::ContainerStats;
}
