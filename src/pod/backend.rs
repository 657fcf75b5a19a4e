//! The CRI's calls for pods and containers, each with the method that does it.

use std::time::Duration;

use coracle_cri::{Call, Result, RuntimeBackend, v1};

use super::Pods;

impl RuntimeBackend for Pods {
    fn run_pod_sandbox(&self, config: &v1::PodSandboxConfig, handler: &str) -> Result<String> {
        Ok(self.run_sandbox(config, handler)?)
    }

    fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        Ok(self.stop_sandbox(id)?)
    }

    fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        Ok(self.remove_sandbox(id)?)
    }

    fn pod_sandbox_status(&self, id: &str, verbose: bool) -> Result<v1::PodSandboxStatusResponse> {
        Ok(self.sandbox_status(id, verbose)?)
    }

    fn list_pod_sandboxes(&self) -> Result<Vec<v1::PodSandbox>> {
        Ok(self.list_sandboxes())
    }

    /// The pod's own cgroup is kubelet's, and so are its limits: nothing is left to be done here.
    fn update_pod_sandbox_resources(&self, request: &v1::UpdatePodSandboxResourcesRequest) -> Result<()> {
        self.sandbox(&request.pod_sandbox_id)?;
        Ok(())
    }

    fn pod_sandbox_stats(&self, id: &str) -> Result<v1::PodSandboxStats> {
        Ok(self.sandbox_stats(id)?)
    }

    fn create_container(&self, sandbox_id: &str, config: &v1::ContainerConfig) -> Result<String> {
        Ok(self.create(sandbox_id, config)?)
    }

    fn start_container(&self, id: &str) -> Result<()> {
        Ok(self.start(id)?)
    }

    fn stop_container(&self, id: &str, grace: Duration, call: &Call) -> Result<()> {
        Ok(self.stop(id, grace, call)?)
    }

    fn remove_container(&self, id: &str) -> Result<()> {
        Ok(self.remove(id)?)
    }

    fn container_status(&self, id: &str, verbose: bool) -> Result<v1::ContainerStatusResponse> {
        Ok(self.status(id, verbose)?)
    }

    fn list_containers(&self) -> Result<Vec<v1::Container>> {
        Ok(self.list())
    }

    fn update_container_resources(&self, request: &v1::UpdateContainerResourcesRequest) -> Result<()> {
        Ok(self.update(request)?)
    }

    fn reopen_container_log(&self, id: &str) -> Result<()> {
        Ok(self.reopen_log(id)?)
    }

    fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
        call: &Call,
    ) -> Result<v1::ExecSyncResponse> {
        Ok(self.exec(id, command, timeout, call)?)
    }

    fn container_stats(&self, id: &str) -> Result<v1::ContainerStats> {
        Ok(self.stats(id)?)
    }
}
