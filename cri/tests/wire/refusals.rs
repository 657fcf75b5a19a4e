//! Codes and messages of what is refused.

use coracle_cri::v1::*;
use tonic::Code;
use tonic::codegen::http;

use crate::client::{Server, plain, run};
use crate::node::Node;
use crate::rpcs::{container, pod};

/// Asserts the code and that the message names something.
macro_rules! refused {
    ($answer:expr, $code:ident, $naming:literal) => {
        let error = $answer.await.unwrap_err();
        assert_eq!(error.code(), Code::$code, "{error}");
        assert!(error.message().contains($naming), "{error} does not name {}", $naming);
    };
}

#[test]
fn what_does_not_exist_is_not_found() {
    run(async {
        let server = Server::start(Node::default());
        let mut runtime = server.runtime().await;
        let pod_sandbox_id = "none".to_owned();
        refused!(
            runtime.pod_sandbox_status(PodSandboxStatusRequest { pod_sandbox_id, verbose: false }),
            NotFound,
            "none"
        );
        let status = ContainerStatusRequest { container_id: "none".into(), verbose: true };
        refused!(runtime.container_status(status), NotFound, "none");
        refused!(
            runtime.start_container(StartContainerRequest { container_id: "none".into() }),
            NotFound,
            "none"
        );
    });
}

#[test]
fn an_empty_id_is_an_invalid_argument() {
    run(async {
        let server = Server::start(Node::default());
        let mut runtime = server.runtime().await;
        refused!(
            runtime.stop_pod_sandbox(StopPodSandboxRequest::default()),
            InvalidArgument,
            "pod_sandbox_id"
        );
        refused!(
            runtime.remove_container(RemoveContainerRequest::default()),
            InvalidArgument,
            "container_id"
        );
        refused!(runtime.exec_sync(ExecSyncRequest::default()), InvalidArgument, "container_id");
        refused!(runtime.container_stats(ContainerStatsRequest::default()), InvalidArgument, "container_id");
        let mut images = server.image().await;
        refused!(images.pull_image(PullImageRequest::default()), InvalidArgument, "image");
        refused!(images.image_status(ImageStatusRequest::default()), InvalidArgument, "image");
    });
}

#[test]
fn a_pod_or_container_without_a_name_never_reaches_the_node() {
    run(async {
        let server = Server::start(Node::default());
        let mut runtime = server.runtime().await;
        refused!(runtime.run_pod_sandbox(RunPodSandboxRequest::default()), InvalidArgument, "config");
        let mut nameless = pod("web");
        nameless.config.as_mut().unwrap().metadata.as_mut().unwrap().uid.clear();
        refused!(runtime.run_pod_sandbox(nameless), InvalidArgument, "metadata.uid");
        let mut no_image = container("main");
        no_image.config.as_mut().unwrap().image = None;
        refused!(runtime.create_container(no_image), InvalidArgument, "image.image");
        let mut no_pod = container("main");
        no_pod.sandbox_config = None;
        refused!(runtime.create_container(no_pod), InvalidArgument, "sandbox_config");
        let mut pod_of_none = container("main");
        pod_of_none.pod_sandbox_id.clear();
        refused!(runtime.create_container(pod_of_none), InvalidArgument, "pod_sandbox_id");
        assert!(server.node.state().begun.is_empty());
        let mut handler = pod("web");
        handler.runtime_handler = "unknown".into();
        refused!(runtime.run_pod_sandbox(handler), InvalidArgument, "unknown");
        assert_eq!(server.node.state().failures.len(), 6);
    });
}

#[test]
fn streams_that_cannot_be_are_refused_before_it_is_said_that_there_are_none() {
    run(async {
        let server = Server::start(Node::default());
        let mut runtime = server.runtime().await;
        let exec = |tty, stdout, stderr| ExecRequest {
            container_id: "c".into(),
            cmd: vec!["sh".into()],
            tty,
            stdin: false,
            stdout,
            stderr,
        };
        refused!(runtime.exec(exec(false, false, false)), InvalidArgument, "stdin, stdout and stderr");
        refused!(runtime.exec(exec(true, true, true)), InvalidArgument, "stderr");
        refused!(runtime.exec(exec(false, true, true)), Unimplemented, "Exec");
    });
}

#[test]
fn what_is_no_call_of_the_cri_is_unimplemented() {
    run(async {
        let server = Server::start(Node::default());
        let (wire, _socket) = server.wire().await;
        let mut client = plain(wire);
        for path in ["/runtime.v1alpha2.RuntimeService/Version", "/runtime.v1.RuntimeService/Fly", "/x"] {
            client.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<VersionRequest, VersionResponse>::default();
            let path = http::uri::PathAndQuery::from_static(path);
            let answer = client.unary(tonic::Request::new(VersionRequest::default()), path, codec).await;
            assert_eq!(answer.unwrap_err().code(), Code::Unimplemented);
        }
    });
}

#[test]
fn a_client_that_does_not_speak_the_protocol_harms_nobody() {
    use std::io::Write;
    run(async {
        let server = Server::start(Node::default());
        let mut noise = std::os::unix::net::UnixStream::connect(&server.path).unwrap();
        noise.write_all(b"GET / HTTP/1.1\r\n\r\n\0\0\0\0").unwrap();
        let _silent = std::os::unix::net::UnixStream::connect(&server.path).unwrap();
        server.runtime().await.version(VersionRequest::default()).await.unwrap();
    });
}

#[test]
fn a_login_is_not_shown() {
    let login = AuthConfig {
        username: "user".into(),
        password: "secret".into(),
        auth: "c2VjcmV0".into(),
        identity_token: "secret".into(),
        registry_token: "secret".into(),
        ..Default::default()
    };
    let shown = format!("{:?}", PullImageRequest { auth: Some(login), ..Default::default() });
    assert!(shown.contains("user") && !shown.contains("secret") && !shown.contains("c2VjcmV0"), "{shown}");
}
