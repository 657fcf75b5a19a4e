//! RuntimeService: one short method for each call.

use tonic::{Request, Response};

use crate::backend::{Backend, RuntimeBackend};
use crate::error::Error;
use crate::events::Events;
use crate::lanes::Lane;
use crate::parts::Parts;
use crate::response::{RpcResult, respond, truncated};
use crate::server::Server;
use crate::v1::runtime_service_server::RuntimeService;
use crate::v1::*;
use crate::validate::{self, required, seconds, streams};

#[tonic::async_trait]
impl<B: Backend> RuntimeService for Server<B> {
    async fn version(&self, _: Request<VersionRequest>) -> RpcResult<VersionResponse> {
        respond(self.ask(Lane::Read, B::version).await)
    }

    async fn status(&self, request: Request<StatusRequest>) -> RpcResult<StatusResponse> {
        let verbose = request.into_inner().verbose;
        respond(self.ask(Lane::Read, move |node| node.status(verbose)).await)
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> RpcResult<RuntimeConfigResponse> {
        let driver = self.ask(Lane::Read, B::cgroup_driver).await?;
        respond(Ok(RuntimeConfigResponse {
            linux: Some(LinuxRuntimeConfiguration { cgroup_driver: driver.into() }),
        }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> RpcResult<UpdateRuntimeConfigResponse> {
        let network = request.into_inner().runtime_config.and_then(|c| c.network_config);
        if let Some(network) = network.filter(|n| !n.pod_cidr.is_empty()) {
            self.ask(Lane::Work, move |node| node.update_pod_cidr(&network.pod_cidr)).await?;
        }
        respond(Ok(UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> RpcResult<RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = Box::new(validate::sandbox(request.config.clone())?);
        let (key, handler) = (config.metadata.clone().unwrap_or_default(), request.runtime_handler.clone());
        let run = move |node: &B, _: &_| node.runtime().run_pod_sandbox(&config, &handler);
        let pod_sandbox_id = self.ask_once(&self.run_sandbox, key, request, run).await?;
        respond(Ok(RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> RpcResult<StopPodSandboxResponse> {
        let id = required("pod_sandbox_id", request.into_inner().pod_sandbox_id)?;
        let stop = {
            let id = id.clone();
            move |node: &B, _: &_| node.runtime().stop_pod_sandbox(&id)
        };
        self.ask_once(&self.stop_sandbox, id, (), stop).await?;
        respond(Ok(StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> RpcResult<RemovePodSandboxResponse> {
        let id = required("pod_sandbox_id", request.into_inner().pod_sandbox_id)?;
        let remove = {
            let id = id.clone();
            move |node: &B, _: &_| node.runtime().remove_pod_sandbox(&id)
        };
        self.ask_once(&self.remove_sandbox, id, (), remove).await?;
        respond(Ok(RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> RpcResult<PodSandboxStatusResponse> {
        let PodSandboxStatusRequest { pod_sandbox_id, verbose } = request.into_inner();
        let id = required("pod_sandbox_id", pod_sandbox_id)?;
        respond(self.ask(Lane::Read, move |node| node.runtime().pod_sandbox_status(&id, verbose)).await)
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> RpcResult<ListPodSandboxResponse> {
        let items = self.sandboxes(request.into_inner().filter).await?;
        respond(Ok(ListPodSandboxResponse { items }))
    }

    type StreamPodSandboxesStream = Parts<StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> RpcResult<Self::StreamPodSandboxesStream> {
        let items = self.sandboxes(request.into_inner().filter).await?;
        respond(Ok(self.parts(items, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes })))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> RpcResult<UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        required("pod_sandbox_id", request.pod_sandbox_id.clone())?;
        self.ask(Lane::Work, move |node| node.runtime().update_pod_sandbox_resources(&request)).await?;
        respond(Ok(UpdatePodSandboxResourcesResponse {}))
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> RpcResult<CreateContainerResponse> {
        let request = request.into_inner();
        let sandbox_id = required("pod_sandbox_id", request.pod_sandbox_id.clone())?;
        let config = Box::new(validate::container(request.config.clone())?);
        if request.sandbox_config.is_none() {
            return Err(Error::invalid("CreateContainer without a sandbox_config").into());
        }
        let key = (sandbox_id.clone(), config.metadata.clone().unwrap_or_default());
        let create = move |node: &B, _: &_| node.runtime().create_container(&sandbox_id, &config);
        let container_id = self.ask_once(&self.create_container, key, request, create).await?;
        respond(Ok(CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> RpcResult<StartContainerResponse> {
        let id = required("container_id", request.into_inner().container_id)?;
        let start = {
            let id = id.clone();
            move |node: &B, _: &_| node.runtime().start_container(&id)
        };
        self.ask_once(&self.start_container, id, (), start).await?;
        respond(Ok(StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> RpcResult<StopContainerResponse> {
        let StopContainerRequest { container_id, timeout } = request.into_inner();
        let id = required("container_id", container_id)?;
        let grace = seconds(timeout)?;
        self.ask_while_waiting(Lane::End, move |node, call| node.runtime().stop_container(&id, grace, call))
            .await?;
        respond(Ok(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> RpcResult<RemoveContainerResponse> {
        let id = required("container_id", request.into_inner().container_id)?;
        let remove = {
            let id = id.clone();
            move |node: &B, _: &_| node.runtime().remove_container(&id)
        };
        self.ask_once(&self.remove_container, id, (), remove).await?;
        respond(Ok(RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> RpcResult<ListContainersResponse> {
        let containers = self.containers(request.into_inner().filter).await?;
        respond(Ok(ListContainersResponse { containers }))
    }

    type StreamContainersStream = Parts<StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> RpcResult<Self::StreamContainersStream> {
        let containers = self.containers(request.into_inner().filter).await?;
        respond(Ok(self.parts(containers, |containers| StreamContainersResponse { containers })))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> RpcResult<ContainerStatusResponse> {
        let ContainerStatusRequest { container_id, verbose } = request.into_inner();
        let id = required("container_id", container_id)?;
        respond(self.ask(Lane::Read, move |node| node.runtime().container_status(&id, verbose)).await)
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> RpcResult<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        required("container_id", request.container_id.clone())?;
        self.ask(Lane::Work, move |node| node.runtime().update_container_resources(&request)).await?;
        respond(Ok(UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> RpcResult<ReopenContainerLogResponse> {
        let id = required("container_id", request.into_inner().container_id)?;
        self.ask(Lane::Work, move |node| node.runtime().reopen_container_log(&id)).await?;
        respond(Ok(ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> RpcResult<ExecSyncResponse> {
        let ExecSyncRequest { container_id, cmd, timeout } = request.into_inner();
        let id = required("container_id", container_id)?;
        if cmd.is_empty() {
            return Err(Error::invalid("ExecSync without a command").into());
        }
        let limit = Some(seconds(timeout)?).filter(|t| !t.is_zero());
        let exec = move |node: &B, call: &_| node.runtime().exec_sync(&id, &cmd, limit, call);
        respond(self.ask_while_waiting(Lane::Exec, exec).await.map(truncated))
    }

    async fn exec(&self, request: Request<ExecRequest>) -> RpcResult<ExecResponse> {
        let request = request.into_inner();
        required("container_id", request.container_id.clone())?;
        if request.cmd.is_empty() {
            return Err(Error::invalid("Exec without a command").into());
        }
        streams(request.tty, [request.stdin, request.stdout, request.stderr])?;
        let urls = self.urls("Exec")?;
        let id = request.container_id.clone();
        self.ask(Lane::Exec, move |node| node.runtime().expect_running(&id)).await?;
        respond(Ok(ExecResponse { url: urls.exec(request)? }))
    }

    async fn attach(&self, request: Request<AttachRequest>) -> RpcResult<AttachResponse> {
        let request = request.into_inner();
        required("container_id", request.container_id.clone())?;
        streams(request.tty, [request.stdin, request.stdout, request.stderr])?;
        let urls = self.urls("Attach")?;
        let id = request.container_id.clone();
        self.ask(Lane::Exec, move |node| node.runtime().expect_running(&id)).await?;
        respond(Ok(AttachResponse { url: urls.attach(request)? }))
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> RpcResult<PortForwardResponse> {
        let request = request.into_inner();
        required("pod_sandbox_id", request.pod_sandbox_id.clone())?;
        let urls = self.urls("PortForward")?;
        let id = request.pod_sandbox_id.clone();
        self.ask(Lane::Exec, move |node| node.runtime().expect_ready(&id)).await?;
        respond(Ok(PortForwardResponse { url: urls.port_forward(request)? }))
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> RpcResult<ContainerStatsResponse> {
        let id = required("container_id", request.into_inner().container_id)?;
        let stats = self.ask(Lane::Stats, move |node| node.runtime().container_stats(&id)).await?;
        respond(Ok(ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> RpcResult<ListContainerStatsResponse> {
        let stats = self.stats_of_containers(request.into_inner().filter).await?;
        respond(Ok(ListContainerStatsResponse { stats }))
    }

    type StreamContainerStatsStream = Parts<StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> RpcResult<Self::StreamContainerStatsStream> {
        let stats = self.stats_of_containers(request.into_inner().filter).await?;
        respond(Ok(self.parts(stats, |container_stats| StreamContainerStatsResponse { container_stats })))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> RpcResult<PodSandboxStatsResponse> {
        let id = required("pod_sandbox_id", request.into_inner().pod_sandbox_id)?;
        let stats = self.ask(Lane::Stats, move |node| node.runtime().pod_sandbox_stats(&id)).await?;
        respond(Ok(PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> RpcResult<ListPodSandboxStatsResponse> {
        let stats = self.stats_of_sandboxes(request.into_inner().filter).await?;
        respond(Ok(ListPodSandboxStatsResponse { stats }))
    }

    type StreamPodSandboxStatsStream = Parts<StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> RpcResult<Self::StreamPodSandboxStatsStream> {
        let stats = self.stats_of_sandboxes(request.into_inner().filter).await?;
        respond(
            Ok(self.parts(stats, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats })),
        )
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> RpcResult<CheckpointContainerResponse> {
        Err(Error::unimplemented("CheckpointContainer").into())
    }

    type GetContainerEventsStream = Events;

    async fn get_container_events(
        &self,
        request: Request<GetEventsRequest>,
    ) -> RpcResult<Self::GetContainerEventsStream> {
        let hub = self.backend.runtime().events();
        let events = hub.ok_or_else(|| Error::unimplemented("GetContainerEvents"))?.listen()?;
        Ok(Response::new(events.holding(request.extensions().get().cloned())))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> RpcResult<ListMetricDescriptorsResponse> {
        let descriptors = self.ask(Lane::Read, |node| node.runtime().metric_descriptors()).await?;
        respond(Ok(ListMetricDescriptorsResponse { descriptors }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> RpcResult<ListPodSandboxMetricsResponse> {
        let pod_metrics = self.metrics_of_sandboxes().await?;
        respond(Ok(ListPodSandboxMetricsResponse { pod_metrics }))
    }

    type StreamPodSandboxMetricsStream = Parts<StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> RpcResult<Self::StreamPodSandboxMetricsStream> {
        let metrics = self.metrics_of_sandboxes().await?;
        respond(Ok(self
            .parts(metrics, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse { pod_sandbox_metrics })))
    }
}
