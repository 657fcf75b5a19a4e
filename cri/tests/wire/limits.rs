//! Messages of 16 MiB, in both directions.

use coracle_cri::MESSAGE_LIMIT;
use coracle_cri::v1::*;
use tonic::Code;

use crate::client::{Server, run};
use crate::node::Node;
use crate::rpcs::pod;

#[test]
fn a_request_of_fifteen_mebibytes_is_taken_and_one_of_seventeen_refused() {
    run(async {
        let server = Server::start(Node::default());
        let mut runtime = server.runtime().await;
        let large = |name: &str, size: usize| {
            let mut request = pod(name);
            request.config.as_mut().unwrap().annotations.insert("large".into(), "x".repeat(size));
            request
        };
        runtime.run_pod_sandbox(large("a", 15 << 20)).await.unwrap();
        let stored = server.node.state().sandboxes["pod0"].1.annotations["large"].len();
        assert_eq!(stored, 15 << 20);
        let error = runtime.run_pod_sandbox(large("b", 17 << 20)).await.unwrap_err();
        assert_eq!(error.code(), Code::OutOfRange, "{error}");
        // The connection survives it.
        runtime.version(VersionRequest::default()).await.unwrap();
    });
}

/// Both outputs may have 16 MiB, and both together must not have more, or no client could read the answer.
#[test]
fn the_output_of_an_exec_is_cut_to_what_a_client_can_read() {
    run(async {
        let server = Server::start(Node::default());
        let all =
            ExecSyncResponse { stdout: vec![b'o'; 16 << 20], stderr: vec![b'e'; 16 << 20], exit_code: 7 };
        server.node.state().output = Some(Ok(all));
        let mut runtime = server.runtime().await;
        let exec = ExecSyncRequest { container_id: "c".into(), cmd: vec!["yes".into()], timeout: 0 };
        let answer = runtime.exec_sync(exec).await.unwrap().into_inner();
        assert_eq!(answer.exit_code, 7);
        let sum = answer.stdout.len() + answer.stderr.len();
        assert!(MESSAGE_LIMIT - 100 < sum && sum < MESSAGE_LIMIT, "{sum}");
    });
}

/// A list that is too large for one message is an error there, and comes whole in parts.
#[test]
fn a_list_too_large_for_a_message_comes_in_parts() {
    run(async {
        let server = Server::start(Node::default());
        {
            let mut state = server.node.state();
            for number in 0..600 {
                let id = format!("pod{number:03}");
                let annotations = [("large".to_owned(), "x".repeat(30_000))].into();
                let sandbox = PodSandbox { id: id.clone(), annotations, ..Default::default() };
                state.sandboxes.insert(id, (sandbox, PodSandboxConfig::default()));
            }
        }
        let mut runtime = server.runtime().await;
        let error = runtime.list_pod_sandbox(ListPodSandboxRequest::default()).await.unwrap_err();
        assert_eq!(error.code(), Code::OutOfRange, "{error}");
        let mut stream =
            runtime.stream_pod_sandboxes(StreamPodSandboxesRequest::default()).await.unwrap().into_inner();
        let (mut parts, mut ids) = (0, Vec::new());
        while let Some(part) = stream.message().await.unwrap() {
            parts += 1;
            ids.extend(part.pod_sandboxes.into_iter().map(|s| s.id));
        }
        assert!(parts > 1);
        assert_eq!(ids, (0..600).map(|n| format!("pod{n:03}")).collect::<Vec<_>>());
    });
}
