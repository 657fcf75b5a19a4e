//! What may be asked twice, and what a retry of a slow call gets.

use coracle_cri::v1::*;
use tonic::Code;

use crate::client::{Server, run, runtime_over, until};
use crate::node::Node;
use crate::rpcs::{container, pod};

#[test]
fn stopping_and_removing_what_does_not_exist_is_no_error() {
    run(async {
        let server = Server::start(Node::default());
        let mut runtime = server.runtime().await;
        let (pod_sandbox_id, container_id) = ("none".to_owned(), "none".to_owned());
        runtime
            .stop_pod_sandbox(StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() })
            .await
            .unwrap();
        runtime.remove_pod_sandbox(RemovePodSandboxRequest { pod_sandbox_id }).await.unwrap();
        let stop = StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
        runtime.stop_container(stop).await.unwrap();
        runtime.remove_container(RemoveContainerRequest { container_id }).await.unwrap();
        let image = Some(ImageSpec { image: "none".into(), ..Default::default() });
        let mut images = server.image().await;
        images.remove_image(RemoveImageRequest { image: image.clone() }).await.unwrap();
        let status = images.image_status(ImageStatusRequest { image, verbose: false }).await.unwrap();
        assert_eq!(status.into_inner().image, None);
    });
}

#[test]
fn a_retry_of_a_slow_pod_start_waits_for_the_first_and_gets_its_result() {
    run(async {
        let server = Server::start(Node::holding("run_pod_sandbox"));
        let (mut one, mut two) = (server.runtime().await, server.runtime().await);
        let first = tokio::spawn(async move { one.run_pod_sandbox(pod("web")).await });
        until(|| server.node.begun("run_pod_sandbox") == 1).await;
        let retry = tokio::spawn(async move { two.run_pod_sandbox(pod("web")).await });
        let mut other = server.runtime().await;
        // Other calls are answered meanwhile.
        assert!(
            other
                .list_pod_sandbox(ListPodSandboxRequest::default())
                .await
                .unwrap()
                .into_inner()
                .items
                .is_empty()
        );
        server.node.release("run_pod_sandbox");
        let (first, retry) = (first.await.unwrap().unwrap(), retry.await.unwrap().unwrap());
        assert_eq!(first.into_inner(), retry.into_inner());
        assert_eq!(server.node.state().sandboxes.len(), 1);
    });
}

/// kubelet gives up after its timeout and comes again: the work of the first call is the answer to the second.
#[test]
fn a_retry_gets_the_result_of_a_call_whose_client_has_gone() {
    run(async {
        let server = Server::start(Node::holding("run_pod_sandbox"));
        let (wire, socket) = server.wire().await;
        let mut one = runtime_over(wire);
        let first = tokio::spawn(async move { one.run_pod_sandbox(pod("web")).await });
        until(|| server.node.begun("run_pod_sandbox") == 1).await;
        first.abort();
        socket.cut();
        let mut two = server.runtime().await;
        let retry = tokio::spawn(async move { two.run_pod_sandbox(pod("web")).await });
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert_eq!(server.node.begun("run_pod_sandbox"), 1);
        server.node.release("run_pod_sandbox");
        assert_eq!(retry.await.unwrap().unwrap().into_inner().pod_sandbox_id, "pod0");
        // And one that comes when all is over gets the pod that is there.
        let mut three = server.runtime().await;
        assert_eq!(three.run_pod_sandbox(pod("web")).await.unwrap().into_inner().pod_sandbox_id, "pod0");
    });
}

#[test]
fn another_pod_of_the_same_name_is_no_retry() {
    run(async {
        let server = Server::start(Node::default());
        let mut runtime = server.runtime().await;
        runtime.run_pod_sandbox(pod("web")).await.unwrap();
        let mut other = pod("web");
        other.config.as_mut().unwrap().hostname = "another".into();
        assert_eq!(runtime.run_pod_sandbox(other).await.unwrap_err().code(), Code::AlreadyExists);
        let mut attempt = pod("web");
        attempt.config.as_mut().unwrap().metadata.as_mut().unwrap().attempt = 1;
        assert_eq!(runtime.run_pod_sandbox(attempt).await.unwrap().into_inner().pod_sandbox_id, "pod1");
    });
}

#[test]
fn slow_container_calls_are_begun_once() {
    run(async {
        let server = Server::start(Node::holding("create_container"));
        let create = |mut runtime: runtime_service_client::RuntimeServiceClient<_>| {
            tokio::spawn(async move { runtime.create_container(container("main")).await })
        };
        let first = create(server.runtime().await);
        until(|| server.node.begun("create_container") == 1).await;
        let retry = create(server.runtime().await);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        server.node.release("create_container");
        let (first, retry) = (first.await.unwrap().unwrap(), retry.await.unwrap().unwrap());
        assert_eq!(first.into_inner(), retry.into_inner());

        server.node.state().held.push("start_container");
        let start = |mut runtime: runtime_service_client::RuntimeServiceClient<_>| {
            let request = StartContainerRequest { container_id: "container0".into() };
            tokio::spawn(async move { runtime.start_container(request).await })
        };
        let first = start(server.runtime().await);
        until(|| server.node.begun("start_container") == 1).await;
        let retry = start(server.runtime().await);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        server.node.release("start_container");
        assert!(first.await.unwrap().is_ok() && retry.await.unwrap().is_ok());
        // Once it is over, starting it again is an error.
        let again = start(server.runtime().await).await.unwrap().unwrap_err();
        assert_eq!(again.code(), Code::FailedPrecondition);
    });
}

#[test]
fn parallel_pulls_of_one_image_share_the_work_but_not_a_refused_login() {
    run(async {
        let server = Server::start(Node::holding("pull_image"));
        let pull = |mut images: image_service_client::ImageServiceClient<_>,
                    password: &str,
                    pod: RunPodSandboxRequest| {
            let request = PullImageRequest {
                image: Some(ImageSpec { image: "busybox".into(), ..Default::default() }),
                auth: Some(AuthConfig { password: password.into(), ..Default::default() }),
                sandbox_config: pod.config,
            };
            tokio::spawn(async move { images.pull_image(request).await })
        };
        let good =
            [pull(server.image().await, "right", pod("a")), pull(server.image().await, "right", pod("b"))];
        let bad = pull(server.image().await, "wrong", pod("a"));
        until(|| server.node.begun("pull_image") == 2).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert_eq!(server.node.begun("pull_image"), 2);
        server.node.release("pull_image");
        for pull in good {
            assert_eq!(pull.await.unwrap().unwrap().into_inner().image_ref, "sha256:busybox");
        }
        assert_eq!(bad.await.unwrap().unwrap_err().code(), Code::PermissionDenied);
    });
}

/// A second StopContainer with less grace must reach the node, to shorten the wait of the first.
#[test]
fn a_second_stop_reaches_the_node_while_the_first_waits() {
    run(async {
        let server = Server::start(Node::holding("stop_container"));
        let stop = |mut runtime: runtime_service_client::RuntimeServiceClient<_>, timeout| {
            let request = StopContainerRequest { container_id: "c".into(), timeout };
            tokio::spawn(async move { runtime.stop_container(request).await })
        };
        let first = stop(server.runtime().await, 30);
        until(|| server.node.begun("stop_container") == 1).await;
        let second = stop(server.runtime().await, 0);
        until(|| server.node.begun("stop_container") == 2).await;
        server.node.release("stop_container");
        assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
    });
}
