//! A node without containers: it keeps in memory what it was asked for, and can be made slow or broken.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use coracle_cri::streaming::{Command, Process, Streams};
use rustix::net::{AddressFamily, SocketType};
use rustix::process::PidfdFlags;

use coracle_cri::{
    Backend, Call, Error, EventHub, ImageBackend, Kind, Result, RuntimeBackend, containerd, v1,
};

#[derive(Default)]
pub(crate) struct Node {
    state: Arc<Mutex<State>>,
    changed: Condvar,
    pub(crate) events: Arc<EventHub>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) sandboxes: BTreeMap<String, (v1::PodSandbox, v1::PodSandboxConfig)>,
    pub(crate) containers: BTreeMap<String, (v1::Container, v1::ContainerConfig)>,
    pub(crate) images: BTreeMap<String, v1::Image>,
    /// The calls whose work was begun, in order.
    pub(crate) begun: Vec<&'static str>,
    /// Calls that wait before they do anything, until they are taken out.
    pub(crate) held: Vec<&'static str>,
    /// Calls that were cancelled while they were held.
    pub(crate) cancelled: Vec<&'static str>,
    /// How often it was told to give memory back.
    pub(crate) gave_back: u32,
    /// What the server said of failed calls.
    pub(crate) failures: Vec<String>,
    /// What is handed out by `exec_sync`.
    pub(crate) output: Option<Result<v1::ExecSyncResponse>>,
    /// Containers whose statistics fail as if they had just gone.
    pub(crate) vanished: Vec<String>,
    pub(crate) last_grace: Option<Duration>,
    pub(crate) last_timeout: Option<Option<Duration>>,
    pub(crate) last_auth: Option<v1::AuthConfig>,
    pub(crate) cidr: String,
    /// Commands with streams cannot be run.
    pub(crate) exec_fails: bool,
    /// The exit codes of commands with streams, in the order of their ends.
    pub(crate) reaped: Vec<i32>,
}

impl Node {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn holding(call: &'static str) -> Self {
        let node = Self::default();
        node.state().held.push(call);
        node
    }

    pub(crate) fn release(&self, call: &'static str) {
        self.state().held.retain(|c| *c != call);
        self.changed.notify_all();
    }

    pub(crate) fn begun(&self, call: &'static str) -> usize {
        self.state().begun.iter().filter(|c| **c == call).count()
    }

    fn begin(&self, name: &'static str, call: Option<&Call>) -> Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        state.begun.push(name);
        while state.held.contains(&name) {
            if call.is_some_and(Call::is_cancelled) {
                state.cancelled.push(name);
                return Err(Error::new(Kind::Cancelled, "cancelled"));
            }
            state = self.changed.wait_timeout(state, Duration::from_millis(5)).unwrap().0;
        }
        Ok(state)
    }
}

fn usage(timestamp: i64) -> v1::CpuUsage {
    v1::CpuUsage { timestamp, ..Default::default() }
}

impl Backend for Node {
    type Runtime = Self;
    type Image = Self;

    fn runtime(&self) -> &Self {
        self
    }

    fn image(&self) -> &Self {
        self
    }

    fn version(&self) -> Result<v1::VersionResponse> {
        drop(self.begin("version", None)?);
        Ok(v1::VersionResponse {
            version: "0.1.0".into(),
            runtime_name: "fake".into(),
            runtime_version: "0.1.0".into(),
            runtime_api_version: "v1".into(),
        })
    }

    fn status(&self, verbose: bool) -> Result<v1::StatusResponse> {
        let condition =
            |kind: &str| v1::RuntimeCondition { r#type: kind.into(), status: true, ..Default::default() };
        let conditions = vec![condition("RuntimeReady"), condition("NetworkReady")];
        let info = verbose.then(|| ("config".to_owned(), "{}".to_owned())).into_iter().collect();
        Ok(v1::StatusResponse { status: Some(v1::RuntimeStatus { conditions }), info, ..Default::default() })
    }

    fn cgroup_driver(&self) -> Result<v1::CgroupDriver> {
        Ok(v1::CgroupDriver::Cgroupfs)
    }

    fn update_pod_cidr(&self, cidr: &str) -> Result<()> {
        cidr.clone_into(&mut self.state().cidr);
        Ok(())
    }

    fn give_back(&self) {
        self.state().gave_back += 1;
    }

    fn failed(&self, rpc: &str, code: &str, message: &str) {
        self.state().failures.push(format!("{rpc}: {code}: {message}"));
    }
}

impl RuntimeBackend for Node {
    fn run_pod_sandbox(&self, config: &v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let mut state = self.begin("run_pod_sandbox", None)?;
        if handler == "unknown" {
            return Err(Error::invalid("there is no runtime handler \"unknown\""));
        }
        let metadata = config.metadata.clone();
        if let Some((sandbox, known)) = state.sandboxes.values().find(|(s, _)| s.metadata == metadata) {
            return if known == config {
                Ok(sandbox.id.clone())
            } else {
                Err(Error::new(Kind::Exists, "another pod has this name"))
            };
        }
        let id = format!("pod{}", state.sandboxes.len());
        let sandbox = v1::PodSandbox {
            id: id.clone(),
            metadata,
            created_at: 1,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..Default::default()
        };
        state.sandboxes.insert(id.clone(), (sandbox, config.clone()));
        Ok(id)
    }

    fn stop_pod_sandbox(&self, id: &str) -> Result<()> {
        let mut state = self.begin("stop_pod_sandbox", None)?;
        if let Some((sandbox, _)) = state.sandboxes.get_mut(id) {
            sandbox.state = v1::PodSandboxState::SandboxNotready.into();
        }
        Ok(())
    }

    fn remove_pod_sandbox(&self, id: &str) -> Result<()> {
        self.begin("remove_pod_sandbox", None)?.sandboxes.remove(id);
        Ok(())
    }

    fn pod_sandbox_status(&self, id: &str, _verbose: bool) -> Result<v1::PodSandboxStatusResponse> {
        let state = self.state();
        let (sandbox, config) =
            state.sandboxes.get(id).ok_or_else(|| Error::not_found(format!("there is no pod {id}")))?;
        let status = v1::PodSandboxStatus {
            id: id.into(),
            metadata: sandbox.metadata.clone(),
            state: sandbox.state,
            created_at: sandbox.created_at,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..Default::default()
        };
        Ok(v1::PodSandboxStatusResponse { status: Some(status), ..Default::default() })
    }

    fn list_pod_sandboxes(&self) -> Result<Vec<v1::PodSandbox>> {
        Ok(self.state().sandboxes.values().map(|(sandbox, _)| sandbox.clone()).collect())
    }

    fn update_pod_sandbox_resources(&self, _: &v1::UpdatePodSandboxResourcesRequest) -> Result<()> {
        Ok(())
    }

    fn pod_sandbox_stats(&self, id: &str) -> Result<v1::PodSandboxStats> {
        let linux = v1::LinuxPodSandboxStats { cpu: Some(usage(1)), ..Default::default() };
        let attributes = v1::PodSandboxAttributes { id: id.into(), ..Default::default() };
        Ok(v1::PodSandboxStats { attributes: Some(attributes), linux: Some(linux), windows: None })
    }

    fn create_container(&self, sandbox_id: &str, config: &v1::ContainerConfig) -> Result<String> {
        let mut state = self.begin("create_container", None)?;
        let id = format!("container{}", state.containers.len());
        let container = v1::Container {
            id: id.clone(),
            pod_sandbox_id: sandbox_id.to_owned(),
            metadata: config.metadata.clone(),
            labels: config.labels.clone(),
            created_at: 1,
            ..Default::default()
        };
        state.containers.insert(id.clone(), (container, config.clone()));
        Ok(id)
    }

    fn start_container(&self, id: &str) -> Result<()> {
        let mut state = self.begin("start_container", None)?;
        let (container, _) =
            state.containers.get_mut(id).ok_or_else(|| Error::not_found(format!("no {id}")))?;
        if container.state == i32::from(v1::ContainerState::ContainerRunning) {
            return Err(Error::new(Kind::WrongState, format!("container {id} runs already")));
        }
        container.state = v1::ContainerState::ContainerRunning.into();
        Ok(())
    }

    fn stop_container(&self, _id: &str, grace: Duration, call: &Call) -> Result<()> {
        self.begin("stop_container", Some(call))?.last_grace = Some(grace);
        Ok(())
    }

    fn remove_container(&self, id: &str) -> Result<()> {
        self.begin("remove_container", None)?.containers.remove(id);
        Ok(())
    }

    fn container_status(&self, id: &str, _verbose: bool) -> Result<v1::ContainerStatusResponse> {
        let state = self.state();
        let (container, config) =
            state.containers.get(id).ok_or_else(|| Error::not_found(format!("no {id}")))?;
        let status = v1::ContainerStatus {
            id: id.into(),
            metadata: container.metadata.clone(),
            state: container.state,
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            ..Default::default()
        };
        Ok(v1::ContainerStatusResponse { status: Some(status), ..Default::default() })
    }

    fn list_containers(&self) -> Result<Vec<v1::Container>> {
        Ok(self.state().containers.values().map(|(container, _)| container.clone()).collect())
    }

    fn update_container_resources(&self, _: &v1::UpdateContainerResourcesRequest) -> Result<()> {
        Ok(())
    }

    fn reopen_container_log(&self, id: &str) -> Result<()> {
        Err(Error::new(Kind::WrongState, format!("container {id} does not run")))
    }

    fn exec_sync(
        &self,
        _id: &str,
        _command: &[String],
        timeout: Option<Duration>,
        call: &Call,
    ) -> Result<v1::ExecSyncResponse> {
        let mut state = self.begin("exec_sync", Some(call))?;
        state.last_timeout = Some(timeout);
        state.output.clone().unwrap_or_else(|| Ok(v1::ExecSyncResponse::default()))
    }

    fn expect_running(&self, id: &str) -> Result<()> {
        if id == "unknown" { Err(Error::not_found("there is no container unknown")) } else { Ok(()) }
    }

    fn expect_ready(&self, _: &str) -> Result<()> {
        Ok(())
    }

    /// Runs a command of this machine.
    fn exec(&self, request: &v1::ExecRequest) -> Result<Process> {
        if self.state().exec_fails {
            return Err(Error::new(Kind::Invalid, "it fails"));
        }
        let mut command = std::process::Command::new(&request.cmd[0]);
        let pipe = |wanted: bool| if wanted { Stdio::piped() } else { Stdio::null() };
        command.args(&request.cmd[1..]).stdin(pipe(request.stdin));
        let mut child = command.stdout(pipe(request.stdout)).stderr(pipe(request.stderr)).spawn().unwrap();
        let streams = Streams::Pipes {
            stdin: child.stdin.take().map(Into::into),
            stdout: child.stdout.take().map(Into::into),
            stderr: child.stderr.take().map(Into::into),
        };
        let pid = rustix::process::Pid::from_child(&child);
        let exit = rustix::process::pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let command = LocalCommand { pid, exit, child: Mutex::new(child), state: Arc::clone(&self.state) };
        Ok(Process { streams, command: Box::new(command) })
    }

    fn socket_in_pod(&self, _: &str, ipv6: bool) -> Result<OwnedFd> {
        let family = if ipv6 { AddressFamily::INET6 } else { AddressFamily::INET };
        Ok(rustix::net::socket(family, SocketType::STREAM, None).unwrap())
    }

    fn metric_descriptors(&self) -> Result<Vec<v1::MetricDescriptor>> {
        let label_keys = vec!["pod".to_owned()];
        Ok(vec![v1::MetricDescriptor { name: "one".into(), help: "One.".into(), label_keys }])
    }

    fn pod_sandbox_metrics(&self, id: &str) -> Result<v1::PodSandboxMetrics> {
        if self.state().vanished.iter().any(|v| v == id) {
            return Err(Error::not_found(format!("there is no pod {id}")));
        }
        Ok(v1::PodSandboxMetrics { pod_sandbox_id: id.to_owned(), ..Default::default() })
    }

    fn containerd_record(&self, id: &str) -> Result<containerd::Record> {
        let state = self.state();
        let (labels, is_sandbox) = match (state.sandboxes.get(id), state.containers.get(id)) {
            (Some((sandbox, _)), _) => (sandbox.labels.clone(), true),
            (None, Some((container, _))) => (container.labels.clone(), false),
            (None, None) => return Err(Error::not_found(format!("no {id}"))),
        };
        let image = "docker.io/library/box:latest".to_owned();
        Ok(containerd::Record { labels, image, created_ns: 1_500_000_000, is_sandbox })
    }

    fn containerd_task(&self, id: &str) -> Result<containerd::Task> {
        let state = self.state();
        let (container, _) = state.containers.get(id).ok_or_else(|| Error::not_found(format!("no {id}")))?;
        match container.state() {
            v1::ContainerState::ContainerRunning => Ok(containerd::Task::Running { pid: 42 }),
            v1::ContainerState::ContainerExited => Ok(containerd::Task::Stopped { exit_code: 3 }),
            _ => Err(Error::not_found(format!("{id} has no process yet"))),
        }
    }

    fn events(&self) -> Option<&Arc<EventHub>> {
        Some(&self.events)
    }

    fn container_stats(&self, id: &str) -> Result<v1::ContainerStats> {
        if self.state().vanished.iter().any(|v| v == id) {
            return Err(Error::not_found(format!("there is no container {id}")));
        }
        let attributes = v1::ContainerAttributes { id: id.into(), ..Default::default() };
        Ok(v1::ContainerStats { attributes: Some(attributes), cpu: Some(usage(1)), ..Default::default() })
    }
}

impl ImageBackend for Node {
    fn list_images(&self, image: Option<&v1::ImageSpec>) -> Result<Vec<v1::Image>> {
        let state = self.state();
        let all = state.images.iter().filter(|(name, _)| image.is_none_or(|i| i.image == **name));
        Ok(all.map(|(_, image)| image.clone()).collect())
    }

    fn image_status(&self, image: &v1::ImageSpec, _verbose: bool) -> Result<v1::ImageStatusResponse> {
        let image = self.state().images.get(&image.image).cloned();
        Ok(v1::ImageStatusResponse { image, ..Default::default() })
    }

    fn pull_image(
        &self,
        image: &v1::ImageSpec,
        auth: Option<&v1::AuthConfig>,
        call: &Call,
    ) -> Result<String> {
        let mut state = self.begin("pull_image", Some(call))?;
        state.last_auth = auth.cloned();
        if auth.is_some_and(|a| a.password == "wrong") {
            return Err(Error::new(Kind::Denied, "the registry refuses this login"));
        }
        let id = format!("sha256:{}", image.image);
        let pulled = v1::Image { id: id.clone(), size: 1, ..Default::default() };
        state.images.insert(image.image.clone(), pulled);
        Ok(id)
    }

    fn remove_image(&self, image: &v1::ImageSpec) -> Result<()> {
        self.state().images.remove(&image.image);
        Ok(())
    }

    fn image_fs_info(&self) -> Result<v1::ImageFsInfoResponse> {
        Ok(v1::ImageFsInfoResponse {
            image_filesystems: vec![v1::FilesystemUsage { timestamp: 1, ..Default::default() }],
            container_filesystems: vec![],
        })
    }
}

struct LocalCommand {
    pid: rustix::process::Pid,
    exit: OwnedFd,
    child: Mutex<std::process::Child>,
    state: Arc<Mutex<State>>,
}

impl Command for LocalCommand {
    fn exit_event(&self) -> std::io::Result<OwnedFd> {
        self.exit.try_clone()
    }

    fn reap(&self) -> i32 {
        let status = self.child.lock().unwrap().wait().unwrap();
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap());
        self.state.lock().unwrap().reaped.push(code);
        code
    }

    fn hang_up(&self) {
        let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::HUP);
    }
}
