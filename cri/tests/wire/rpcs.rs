//! Every call of the API, once, and that README.md has a row for each.

use coracle_cri::v1::*;
use tonic::Code;

use crate::client::{Server, plain, run};
use crate::node::Node;

pub(crate) fn pod(name: &str) -> RunPodSandboxRequest {
    let metadata = PodSandboxMetadata {
        name: name.into(),
        uid: format!("{name}-uid"),
        namespace: "default".into(),
        attempt: 0,
    };
    let config = PodSandboxConfig {
        metadata: Some(metadata),
        labels: [("app".to_owned(), name.to_owned())].into(),
        annotations: [("any/thing".to_owned(), "{\"kept\": \"as it is\u{1}\"}".to_owned())].into(),
        ..Default::default()
    };
    RunPodSandboxRequest { config: Some(config), runtime_handler: String::new() }
}

pub(crate) fn container(name: &str) -> CreateContainerRequest {
    let config = ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: "sha256:1".into(), ..Default::default() }),
        labels: [("app".to_owned(), name.to_owned())].into(),
        annotations: [("any/thing".to_owned(), "kept".to_owned())].into(),
        envs: vec![KeyValue { key: "RAW".into(), value: vec![0xff, 0xfe] }],
        ..Default::default()
    };
    let sandbox_config = pod("web").config;
    CreateContainerRequest { pod_sandbox_id: "pod0".into(), config: Some(config), sandbox_config }
}

#[test]
fn a_pod_lives_and_dies() {
    run(async {
        let server = Server::start(Node::default());
        let mut runtime = server.runtime().await;
        let id = runtime.run_pod_sandbox(pod("web")).await.unwrap().into_inner().pod_sandbox_id;
        let status = PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: false };
        let status = runtime.pod_sandbox_status(status).await.unwrap().into_inner().status.unwrap();
        let config = pod("web").config.unwrap();
        assert_eq!((status.labels, status.annotations), (config.labels, config.annotations));
        let one = runtime.create_container(container("main")).await.unwrap().into_inner().container_id;
        let stored = server.node.state().containers[&one].1.clone();
        assert_eq!(stored, container("main").config.unwrap());
        runtime.start_container(StartContainerRequest { container_id: one.clone() }).await.unwrap();
        let stop = StopContainerRequest { container_id: one.clone(), timeout: 10 };
        runtime.stop_container(stop).await.unwrap();
        assert_eq!(server.node.state().last_grace, Some(std::time::Duration::from_secs(10)));
        runtime.remove_container(RemoveContainerRequest { container_id: one }).await.unwrap();
        runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: id.clone() }).await.unwrap();
        runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id: id }).await.unwrap();
        assert!(server.node.state().sandboxes.is_empty() && server.node.state().containers.is_empty());
    });
}

#[test]
fn lists_are_filtered_and_statistics_leave_out_what_has_gone() {
    run(async {
        let server = Server::start(Node::default());
        let mut runtime = server.runtime().await;
        for name in ["web", "db"] {
            runtime.run_pod_sandbox(pod(name)).await.unwrap();
            runtime.create_container(container(name)).await.unwrap();
        }
        let label_selector = || [("app".to_owned(), "db".to_owned())].into();
        let filter = Some(PodSandboxFilter { label_selector: label_selector(), ..Default::default() });
        let items =
            runtime.list_pod_sandbox(ListPodSandboxRequest { filter }).await.unwrap().into_inner().items;
        assert_eq!(items.iter().map(|i| i.id.as_str()).collect::<Vec<_>>(), ["pod1"]);
        let filter = Some(ContainerFilter { id: "container0".into(), ..Default::default() });
        let list =
            runtime.list_containers(ListContainersRequest { filter }).await.unwrap().into_inner().containers;
        assert_eq!(list.len(), 1);
        let stats = |filter| ListContainerStatsRequest { filter };
        let all = runtime.list_container_stats(stats(None)).await.unwrap().into_inner().stats;
        assert_eq!(all.len(), 2);
        server.node.state().vanished.push("container0".into());
        let left = runtime.list_container_stats(stats(None)).await.unwrap().into_inner().stats;
        assert_eq!(left[0].attributes.as_ref().unwrap().id, "container1");
        let filter = Some(ContainerStatsFilter { label_selector: label_selector(), ..Default::default() });
        assert_eq!(runtime.list_container_stats(stats(filter)).await.unwrap().into_inner().stats.len(), 1);
        let filter = Some(PodSandboxStatsFilter { id: "pod1".into(), ..Default::default() });
        let pods = runtime.list_pod_sandbox_stats(ListPodSandboxStatsRequest { filter }).await.unwrap();
        assert_eq!(pods.into_inner().stats.len(), 1);
    });
}

#[test]
fn metrics_are_listed_and_streamed_without_what_has_gone() {
    run(async {
        let server = Server::start(Node::default());
        let mut runtime = server.runtime().await;
        for name in ["web", "db", "old"] {
            runtime.run_pod_sandbox(pod(name)).await.unwrap();
        }
        runtime.stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: "pod2".into() }).await.unwrap();
        server.node.state().vanished.push("pod0".into());
        let descriptors = runtime.list_metric_descriptors(ListMetricDescriptorsRequest {}).await.unwrap();
        assert_eq!(descriptors.into_inner().descriptors[0].name, "one");
        let ids = |all: Vec<PodSandboxMetrics>| all.into_iter().map(|m| m.pod_sandbox_id).collect::<Vec<_>>();
        let listed = runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await.unwrap();
        assert_eq!(ids(listed.into_inner().pod_metrics), ["pod1"]);
        let streamed = runtime.stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest {}).await.unwrap();
        let part = streamed.into_inner().message().await.unwrap().unwrap();
        assert_eq!(ids(part.pod_sandbox_metrics), ["pod1"]);
    });
}

#[test]
fn the_node_tells_about_itself() {
    run(async {
        let server = Server::start(Node::default());
        let mut runtime = server.runtime().await;
        let version = runtime.version(VersionRequest { version: "v1".into() }).await.unwrap().into_inner();
        assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("fake", "v1"));
        let status = runtime.status(StatusRequest { verbose: true }).await.unwrap().into_inner();
        assert_eq!(status.status.unwrap().conditions.len(), 2);
        assert!(status.info.contains_key("config"));
        let config = runtime.runtime_config(RuntimeConfigRequest::default()).await.unwrap().into_inner();
        assert_eq!(config.linux.unwrap().cgroup_driver(), CgroupDriver::Cgroupfs);
        let network_config = Some(NetworkConfig { pod_cidr: "10.42.0.0/24".into() });
        let update = UpdateRuntimeConfigRequest { runtime_config: Some(RuntimeConfig { network_config }) };
        runtime.update_runtime_config(update).await.unwrap();
        runtime.update_runtime_config(UpdateRuntimeConfigRequest::default()).await.unwrap();
        assert_eq!(server.node.state().cidr, "10.42.0.0/24");
        let info = server.image().await.image_fs_info(ImageFsInfoRequest::default()).await.unwrap();
        assert_eq!(info.into_inner().image_filesystems.len(), 1);
    });
}

/// Calls every method of both services, and holds README.md's table to the answers.
#[test]
fn each_call_answers_as_the_table_in_the_readme_says() {
    let readme = include_str!("../../README.md");
    let rows: Vec<(&str, &str)> = readme
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| ")?.split(" | ");
            Some((cells.next()?.trim_matches('`'), cells.next()?.trim()))
        })
        .filter(|(name, _)| name.starts_with(char::is_uppercase))
        .collect();
    let proto = include_str!("../../proto/api.proto");
    let declared: Vec<(&str, &str)> = {
        let mut service = "";
        let mut all = Vec::new();
        for line in proto.lines() {
            if let Some(rest) = line.strip_prefix("service ") {
                service = rest.split(' ').next().unwrap();
            }
            if let Some(rest) = line.trim().strip_prefix("rpc ") {
                all.push((service, rest.split('(').next().unwrap()));
            }
        }
        all
    };
    assert_eq!(declared.len(), 41);
    let names: Vec<_> = declared.iter().map(|(_, name)| *name).collect();
    assert_eq!(rows.iter().map(|(name, _)| *name).collect::<Vec<_>>(), names);
    run(async {
        let server = Server::with_streaming(Node::default());
        for ((service, name), (_, state)) in declared.into_iter().zip(rows) {
            let code = answer_to(&server, service, name).await;
            assert_eq!(
                code == Code::Unimplemented,
                state == "Unimplemented",
                "{name}: {state}, but {code:?}"
            );
        }
    });
}

/// The code that a call is answered with which names something that does not exist.
async fn answer_to(server: &Server, service: &str, name: &str) -> Code {
    let (container_id, cmd) = ("none".to_owned(), vec!["sh".to_owned()]);
    let path = &format!("/runtime.v1.{service}/{name}");
    match name {
        "Exec" => {
            code_of(server, path, ExecRequest { container_id, cmd, stdout: true, ..Default::default() }).await
        }
        "Attach" => {
            code_of(server, path, AttachRequest { container_id, stdout: true, ..Default::default() }).await
        }
        // An id in the first field, where it is for every call that takes one; those that do not, refuse it.
        _ => code_of(server, path, StartContainerRequest { container_id }).await,
    }
}

async fn code_of<Q: prost::Message + 'static>(server: &Server, path: &str, request: Q) -> Code {
    let (wire, _socket) = server.wire().await;
    let mut client = plain(wire);
    client.ready().await.unwrap();
    let codec = tonic_prost::ProstCodec::<Q, StartContainerResponse>::default();
    match client.server_streaming(tonic::Request::new(request), path.parse().unwrap(), codec).await {
        Ok(answer) => {
            let mut stream = answer.into_inner();
            // A stream of events stays open without any.
            let first = tokio::time::timeout(std::time::Duration::from_millis(500), stream.message()).await;
            first.ok().and_then(Result::err).map_or(Code::Ok, |e| e.code())
        }
        Err(error) => error.code(),
    }
}
