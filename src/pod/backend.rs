//! RuntimeService: each CRI call, delegated to the part that implements it. Ids may be abbreviated.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use coracle_cri::streaming::{Attachment, Process};
use coracle_cri::{Call, EventHub, Result, RuntimeBackend, containerd, v1};

use super::{Pods, metrics};

impl RuntimeBackend for Pods {
    fn run_pod_sandbox(&self, config: &v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let id = self.starts.pods.time(|| self.sandboxes.run(config, handler))?;
        if let Some(sandbox) = self.sandboxes.by_id(&id) {
            self.events.of_sandbox(&sandbox);
        }
        Ok(id)
    }

    /// Stops the containers of a pod and detaches its network. A pod that does not exist or is stopped is no error.
    fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        match self.sandboxes.find(id)? {
            Some(sandbox) => Ok(self.stop_sandbox(&sandbox)?),
            None => Ok(()),
        }
    }

    /// Removes a pod with its containers, by force. A pod that does not exist is no error.
    fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        match self.sandboxes.find(id)? {
            Some(sandbox) => Ok(self.remove_sandbox(&sandbox)?),
            None => Ok(()),
        }
    }

    fn pod_sandbox_status(&self, id: &str, verbose: bool) -> Result<v1::PodSandboxStatusResponse> {
        let sandbox = self.sandboxes.get(id)?;
        let info = verbose.then(|| self.sandboxes.info(&sandbox, self.containers.pid_in(&sandbox.id)));
        Ok(sandbox.status_response(info))
    }

    fn list_pod_sandboxes(&self) -> Result<Vec<v1::PodSandbox>> {
        Ok(self.sandboxes.list())
    }

    /// kubelet owns the pod's cgroup and sets its limits itself, so there is nothing to change here.
    fn update_pod_sandbox_resources(&self, request: &v1::UpdatePodSandboxResourcesRequest) -> Result<()> {
        self.sandboxes.get(&request.pod_sandbox_id)?;
        Ok(())
    }

    fn pod_sandbox_stats(&self, id: &str) -> Result<v1::PodSandboxStats> {
        Ok(self.stats.of_sandbox(&*self.sandboxes.get(id)?))
    }

    fn create_container(&self, sandbox_id: &str, config: &v1::ContainerConfig) -> Result<String> {
        let id = self.containers.create(&*self.sandboxes.get(sandbox_id)?, config)?;
        if let Some(container) = self.containers.by_id(&id) {
            self.events.of_container(&container);
        }
        Ok(id)
    }

    fn start_container(&self, id: &str) -> Result<()> {
        let container = self.containers.get(id)?;
        let sandbox = self.sandboxes.get(&container.pod)?;
        let started = self.starts.containers.time(|| self.containers.start(&sandbox, &container));
        self.events.of_container(&container);
        self.cadvisor.refresh(&sandbox);
        Ok(started?)
    }

    /// A container that does not exist or has exited is no error.
    fn stop_container(&self, id: &str, grace: Duration, call: &Call) -> Result<()> {
        match self.containers.find(id)? {
            Some(container) => Ok(self.containers.stop(&container, grace, call)?),
            None => Ok(()),
        }
    }

    /// A container that does not exist is no error.
    fn remove_container(&self, id: &str) -> Result<()> {
        match self.containers.find(id)? {
            Some(container) => Ok(self.remove_one(&container)?),
            None => Ok(()),
        }
    }

    fn container_status(&self, id: &str, verbose: bool) -> Result<v1::ContainerStatusResponse> {
        Ok(self.containers.status(id, verbose)?)
    }

    fn list_containers(&self) -> Result<Vec<v1::Container>> {
        Ok(self.containers.list())
    }

    fn update_container_resources(&self, request: &v1::UpdateContainerResourcesRequest) -> Result<()> {
        Ok(self.containers.update(request)?)
    }

    fn reopen_container_log(&self, id: &str) -> Result<()> {
        Ok(self.containers.reopen_log(id)?)
    }

    fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
        call: &Call,
    ) -> Result<v1::ExecSyncResponse> {
        Ok(self.containers.exec(id, command, timeout, call)?)
    }

    fn expect_running(&self, container_id: &str) -> Result<()> {
        Ok(self.containers.expect_running(container_id)?)
    }

    fn expect_ready(&self, sandbox_id: &str) -> Result<()> {
        Ok(self.sandboxes.expect_ready(sandbox_id)?)
    }

    fn exec(&self, request: &v1::ExecRequest) -> Result<Process> {
        Ok(self.containers.start_command(request)?)
    }

    fn attach(&self, container_id: &str, stdin: bool) -> Result<Box<dyn Attachment>> {
        Ok(self.containers.attach(container_id, stdin)?)
    }

    fn socket_in_pod(&self, sandbox_id: &str, ipv6: bool) -> Result<OwnedFd> {
        Ok(self.sandboxes.socket(sandbox_id, ipv6)?)
    }

    fn metric_descriptors(&self) -> Result<Vec<v1::MetricDescriptor>> {
        Ok(metrics::descriptors())
    }

    fn pod_sandbox_metrics(&self, id: &str) -> Result<v1::PodSandboxMetrics> {
        Ok(self.metrics.of_sandbox(&*self.sandboxes.get(id)?))
    }

    fn containerd_record(&self, id: &str) -> Result<containerd::Record> {
        Ok(self.cadvisor.record(id)?)
    }

    fn containerd_task(&self, id: &str) -> Result<containerd::Task> {
        Ok(self.cadvisor.task(id)?)
    }

    fn events(&self) -> Option<&Arc<EventHub>> {
        Some(&self.events.hub)
    }

    fn container_stats(&self, id: &str) -> Result<v1::ContainerStats> {
        Ok(self.stats.of_container(&*self.containers.get(id)?)?)
    }
}
