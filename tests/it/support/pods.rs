//! Pods as kubelet makes them, by way of a running `coracle serve`.

use std::time::Duration;

use coracle_cri::v1::*;
use tonic::{Code, Status};

use super::{Serve, wait_until};

/// A pod with the node's network, which needs no plugins.
pub(crate) fn pod_on_host(name: &str) -> PodSandboxConfig {
    let options = NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Container.into(),
        ..NamespaceOption::default()
    };
    pod_with(name, options)
}

/// A pod with these namespaces.
pub(crate) fn pod_with(name: &str, options: NamespaceOption) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "tests".to_owned(),
            attempt: 0,
        }),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The namespaces of a pod, which its containers are told as well.
pub(crate) fn namespaces_of(pod: &PodSandboxConfig) -> NamespaceOption {
    let security = pod.linux.as_ref().and_then(|linux| linux.security_context.clone());
    security.and_then(|security| security.namespace_options).unwrap_or_default()
}

/// A container of a pod that runs this script.
pub(crate) fn container(pod: &PodSandboxConfig, name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: "box".to_owned(), ..Default::default() }),
        command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        log_path: format!("{name}.log"),
        linux: Some(LinuxContainerConfig {
            resources: None,
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces_of(pod)),
                ..Default::default()
            }),
        }),
        ..Default::default()
    }
}

impl Serve {
    /// A pod's logs go below the sandbox.
    pub(crate) fn logged(&self, pod: PodSandboxConfig) -> PodSandboxConfig {
        PodSandboxConfig { log_directory: self.path("logs").display().to_string(), ..pod }
    }

    /// RunPodSandbox
    pub(crate) fn try_run_pod(&self, pod: &PodSandboxConfig) -> Result<String, Status> {
        let request = RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: String::new() };
        self.run(self.runtime().run_pod_sandbox(request)).map(|answer| answer.pod_sandbox_id)
    }

    #[track_caller]
    pub(crate) fn run_pod(&self, pod: &PodSandboxConfig) -> String {
        self.try_run_pod(pod).unwrap()
    }

    /// CreateContainer
    pub(crate) fn try_create(
        &self,
        id: &str,
        pod: &PodSandboxConfig,
        container: &ContainerConfig,
    ) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: id.to_owned(),
            config: Some(container.clone()),
            sandbox_config: Some(pod.clone()),
        };
        self.run(self.runtime().create_container(request)).map(|answer| answer.container_id)
    }

    /// StartContainer
    pub(crate) fn try_start(&self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.run(self.runtime().start_container(request)).map(drop)
    }

    /// Creates and starts a container.
    #[track_caller]
    pub(crate) fn run_container(
        &self,
        id: &str,
        pod: &PodSandboxConfig,
        container: &ContainerConfig,
    ) -> String {
        let id = self.try_create(id, pod, container).unwrap();
        self.try_start(&id).unwrap();
        id
    }

    /// StopContainer
    pub(crate) fn try_stop(&self, id: &str, seconds: i64) -> Result<(), Status> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout: seconds };
        self.run(self.runtime().stop_container(request)).map(drop)
    }

    /// RemoveContainer
    pub(crate) fn try_remove(&self, id: &str) -> Result<(), Status> {
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        self.run(self.runtime().remove_container(request)).map(drop)
    }

    /// StopPodSandbox
    pub(crate) fn try_stop_pod(&self, id: &str) -> Result<(), Status> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.run(self.runtime().stop_pod_sandbox(request)).map(drop)
    }

    /// RemovePodSandbox
    pub(crate) fn try_remove_pod(&self, id: &str) -> Result<(), Status> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.run(self.runtime().remove_pod_sandbox(request)).map(drop)
    }

    /// ContainerStatus
    pub(crate) fn try_status(&self, id: &str) -> Result<ContainerStatus, Status> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        self.run(self.runtime().container_status(request)).map(|answer| answer.status.unwrap())
    }

    /// UpdateContainerResources
    #[track_caller]
    pub(crate) fn update(&self, id: &str, limits: LinuxContainerResources) {
        let request = UpdateContainerResourcesRequest {
            container_id: id.to_owned(),
            linux: Some(limits),
            ..UpdateContainerResourcesRequest::default()
        };
        self.run(self.runtime().update_container_resources(request)).unwrap();
    }

    /// The verbose information of a container's status.
    #[track_caller]
    pub(crate) fn info_of(&self, id: &str) -> serde_json::Value {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: true };
        let response = self.run(self.runtime().container_status(request)).unwrap();
        serde_json::from_str(&response.info["info"]).unwrap()
    }

    /// The pid of a container's init process.
    #[track_caller]
    pub(crate) fn pid_of(&self, id: &str) -> i64 {
        self.info_of(id)["pid"].as_i64().unwrap()
    }

    #[track_caller]
    pub(crate) fn container_state(&self, id: &str) -> ContainerState {
        self.try_status(id).unwrap().state()
    }

    /// Waits until a container has exited.
    #[track_caller]
    pub(crate) fn exited(&self, id: &str) -> ContainerStatus {
        wait_until("the container to exit", || {
            self.try_status(id).ok().filter(|status| status.state() == ContainerState::ContainerExited)
        })
    }

    /// PodSandboxStatus
    pub(crate) fn try_pod_status(&self, id: &str) -> Result<PodSandboxStatus, Status> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        self.run(self.runtime().pod_sandbox_status(request)).map(|answer| answer.status.unwrap())
    }

    /// ExecSync; no limit when `timeout` is none.
    pub(crate) fn try_exec(
        &self,
        id: &str,
        script: &str,
        timeout: Option<Duration>,
    ) -> Result<ExecSyncResponse, Status> {
        let request = ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: ["/bin/sh", "-c", script].map(str::to_owned).into(),
            timeout: timeout.map_or(0, |timeout| timeout.as_secs().cast_signed()),
        };
        self.run(self.runtime().exec_sync(request))
    }

    /// What a script in a container writes.
    #[track_caller]
    pub(crate) fn output_in(&self, id: &str, script: &str) -> String {
        let answer = self.try_exec(id, script, None).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(answer.exit_code, 0, "{script}: {}", text(&answer.stderr));
        text(&answer.stdout).trim().to_owned()
    }

    /// The lines of a container's log, without their times.
    pub(crate) fn log_of(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.path(&format!("logs/{name}.log"))).unwrap_or_default();
        text.lines().filter_map(|line| Some(line.split_once(' ')?.1.to_owned())).collect()
    }

    /// Waits until a container's log has this line.
    #[track_caller]
    pub(crate) fn logs(&self, name: &str, line: &str) {
        wait_until("a line in the log", || self.log_of(name).iter().any(|own| own == line).then_some(()));
    }

    /// Ids of all pods, and of all containers.
    pub(crate) fn all(&self) -> (Vec<String>, Vec<String>) {
        let pods = self.run(self.runtime().list_pod_sandbox(ListPodSandboxRequest::default())).unwrap();
        let containers = self.run(self.runtime().list_containers(ListContainersRequest::default())).unwrap();
        (
            pods.items.into_iter().map(|pod| pod.id).collect(),
            containers.containers.into_iter().map(|container| container.id).collect(),
        )
    }

    /// Removes all pods, and looks that nothing is left of any.
    #[track_caller]
    pub(crate) fn removes_all(&self) {
        for pod in self.all().0 {
            self.try_stop_pod(&pod).unwrap();
            self.try_remove_pod(&pod).unwrap();
        }
        assert_eq!(self.all(), (Vec::new(), Vec::new()));
        self.is_clean();
    }

    /// Nothing is left of any pod on disk, in the keeper, or mounted.
    #[track_caller]
    pub(crate) fn is_clean(&self) {
        let run = self.kept().run_dir();
        let names = |path: std::path::PathBuf| -> Vec<_> {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.map(|entry| entry.file_name()).collect()
        };
        // The end of a container is cleaned up after beside the calls.
        let all = [
            run.join("pods"),
            self.sandbox().root().to_owned(),
            self.path("store/containers"),
            run.join("cni"),
        ];
        for path in all {
            let what = format!("{} to be empty", path.display());
            wait_until(&what, || names(path.clone()).is_empty().then_some(()));
        }
        wait_until("the keeper to forget", || self.kept().client().list().unwrap().is_empty().then_some(()));
        let own = run.display().to_string();
        wait_until("its mounts to be gone", || {
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
            (!mounts.contains(&own)).then_some(())
        });
    }
}

/// The code of a refusal.
#[track_caller]
pub(crate) fn code<T: std::fmt::Debug>(answer: Result<T, Status>) -> Code {
    answer.unwrap_err().code()
}
