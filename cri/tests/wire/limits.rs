//! Messages of 16 MiB, in both directions, and what clients may make the server hold.

use std::time::Duration;

use coracle_cri::v1::*;
use coracle_cri::{Limits, MESSAGE_LIMIT};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use crate::client::{Server, run, runtime_over, until};
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

/// What an HTTP/2 client begins with: the preface and empty settings.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

async fn connect(server: &Server) -> tokio::net::UnixStream {
    tokio::net::UnixStream::connect(&server.path).await.unwrap()
}

/// Reads until the server closes.
async fn closed(mut stream: tokio::net::UnixStream) {
    let mut sink = Vec::new();
    let _ = stream.read_to_end(&mut sink).await;
}

#[test]
fn who_does_not_begin_to_speak_is_closed_and_who_did_is_not() {
    run(async {
        let limits = Limits { preface: Duration::from_millis(100), ..Limits::default() };
        let server = Server::with(Node::default(), limits);
        let (silent, mut half, mut whole) =
            (connect(&server).await, connect(&server).await, connect(&server).await);
        half.write_all(&HELLO[..20]).await.unwrap();
        whole.write_all(HELLO).await.unwrap();
        closed(silent).await;
        closed(half).await;
        let mut runtime = server.runtime().await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        runtime.version(VersionRequest::default()).await.unwrap();
        let open = tokio::time::timeout(Duration::from_millis(300), closed(whole)).await;
        assert!(open.is_err(), "who has spoken may rest");
    });
}

#[test]
fn a_connection_too_many_takes_the_place_of_one_that_rests() {
    run(async {
        let limits = Limits { connections: 4, ..Limits::default() };
        let server = Server::with(Node::holding("version"), limits);
        // One that works, and then very many that do not.
        let mut working = server.runtime().await;
        let call = tokio::spawn(async move { working.version(VersionRequest::default()).await });
        until(|| server.node.state().begun.contains(&"version")).await;
        let mut kubelet = server.runtime().await;
        kubelet.status(StatusRequest::default()).await.unwrap();
        let mut resting = Vec::new();
        for _ in 0..200 {
            let mut stream = connect(&server).await;
            let _ = stream.write_all(HELLO).await;
            resting.push(stream);
        }
        server.runtime().await.status(StatusRequest::default()).await.unwrap();
        let last = resting.split_off(resting.len() - 2);
        for stream in resting {
            closed(stream).await;
        }
        drop(last);
        // Who has called before is the last to go.
        kubelet.status(StatusRequest::default()).await.unwrap();
        server.node.release("version");
        call.await.unwrap().unwrap();
    });
}

#[test]
fn a_connection_too_many_is_closed_while_all_work() {
    run(async {
        let limits = Limits { connections: 2, ..Limits::default() };
        let server = Server::with(Node::holding("version"), limits);
        let mut calls = Vec::new();
        for count in 1..=2 {
            let mut working = server.runtime().await;
            calls.push(tokio::spawn(async move { working.version(VersionRequest::default()).await }));
            until(|| server.node.state().begun.len() == count).await;
        }
        closed(connect(&server).await).await;
        server.node.release("version");
        for call in calls {
            call.await.unwrap().unwrap();
        }
        server.runtime().await.status(StatusRequest::default()).await.unwrap();
    });
}

#[test]
fn a_call_too_many_fails_at_once_and_the_next_one_goes() {
    run(async {
        let limits = Limits { open_calls: 2, ..Limits::default() };
        let server = Server::with(Node::holding("version"), limits);
        let (wire, _socket) = server.wire().await;
        let call = || {
            let mut runtime = runtime_over(wire.clone());
            tokio::spawn(async move { runtime.version(VersionRequest::default()).await })
        };
        let held = [call(), call()];
        until(|| server.node.state().begun.len() == 2).await;
        let error = call().await.unwrap().unwrap_err();
        assert_eq!(error.code(), Code::ResourceExhausted, "{error}");
        server.node.release("version");
        for call in held {
            call.await.unwrap().unwrap();
        }
        call().await.unwrap().unwrap();
    });
}

/// Says that a message of `promised` bytes comes, and sends `sent` of them.
async fn begin(server: &Server, promised: u32, sent: usize) -> tokio::net::UnixStream {
    let mut stream = connect(server).await;
    let path = b"/runtime.v1.RuntimeService/Version";
    // Literal headers without a name from the table, as RFC 7541 has them in 6.2.2.
    let mut block = Vec::new();
    let fields: [(&[u8], &[u8]); 6] = [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", path),
        (b":authority", b"x"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
    ];
    for (name, value) in fields {
        block.push(0);
        block.push(u8::try_from(name.len()).unwrap());
        block.extend(name);
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value);
    }
    let frame = |kind: u8, flags: u8, payload: &[u8]| {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    };
    let mut bytes = HELLO.to_vec();
    bytes.extend(frame(1, 4, &block));
    bytes.extend(frame(0, 0, &[&[0][..], &promised.to_be_bytes(), &vec![0; sent]].concat()));
    stream.write_all(&bytes).await.unwrap();
    stream
}

#[test]
fn requests_that_promise_much_and_send_little_hold_little() {
    run(async {
        let limits = Limits { request: Duration::from_secs(3600), ..Limits::default() };
        let server = Server::with(Node::default(), limits);
        let mut open = Vec::new();
        for _ in 0..40 {
            open.push(begin(&server, 15 << 20, 100).await);
        }
        // Two have their room; the others are told that there is none, and are through.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let mut runtime = server.runtime().await;
        runtime.version(VersionRequest::default()).await.unwrap();
        until(|| server.node.state().failures.len() >= 38).await;
        assert!(server.node.state().failures.iter().all(|failure| failure.contains("ResourceExhausted")));
        drop(open);
        // Their room is free again.
        let mut request = pod("a");
        request.config.as_mut().unwrap().annotations.insert("large".into(), "x".repeat(15 << 20));
        until_ok(&server, request).await;
    });
}

async fn until_ok(server: &Server, request: RunPodSandboxRequest) {
    let mut runtime = server.runtime().await;
    for _ in 0..100 {
        if runtime.run_pod_sandbox(request.clone()).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    runtime.run_pod_sandbox(request).await.unwrap();
}

#[test]
fn a_request_that_does_not_arrive_in_time_fails() {
    run(async {
        let limits = Limits { request: Duration::from_millis(100), ..Limits::default() };
        let server = Server::with(Node::default(), limits);
        let _stream = begin(&server, 1000, 10).await;
        until(|| !server.node.state().failures.is_empty()).await;
        let failures = server.node.state().failures.clone();
        assert!(failures[0].contains("DeadlineExceeded"), "{failures:?}");
    });
}

/// A client that opens calls and takes them back at once (CVE-2023-44487) is closed, and nobody else notices.
#[test]
fn a_client_that_takes_its_calls_back_at_once_is_closed() {
    run(async {
        let server = Server::start(Node::default());
        let mut stream = connect(&server).await;
        let mut bytes = HELLO.to_vec();
        for call in 0..2000_u32 {
            let id = (call * 2 + 1).to_be_bytes();
            // Headers by the static table: POST, http, /, and an authority.
            bytes.extend([&[0, 0, 4, 1, 4][..], &id, &[0x83, 0x86, 0x84, 0x81]].concat());
            bytes.extend([&[0, 0, 4, 3, 0][..], &id, &[0, 0, 0, 8]].concat());
        }
        let _ = stream.write_all(&bytes).await;
        closed(stream).await;
        server.runtime().await.version(VersionRequest::default()).await.unwrap();
    });
}

#[test]
fn memory_is_given_back_some_time_after_much_was_asked_and_not_for_little() {
    run(async {
        let server = Server::start(Node::default());
        let mut runtime = server.runtime().await;
        runtime.version(VersionRequest::default()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(2500)).await;
        assert_eq!(server.node.state().gave_back, 0);
        let mut request = pod("a");
        request.config.as_mut().unwrap().annotations.insert("large".into(), "x".repeat(5 << 20));
        runtime.run_pod_sandbox(request).await.unwrap();
        until(|| server.node.state().gave_back > 0).await;
    });
}
