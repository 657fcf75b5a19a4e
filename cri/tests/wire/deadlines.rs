//! Clients that give up: by deadline, by cancelling, by going away; and a server that is stopped.

use std::time::Duration;

use coracle_cri::v1::*;
use coracle_cri::{Error, Kind};
use tonic::{Code, Request};

use crate::client::{Server, image_over, run, runtime_over, until};
use crate::node::Node;
use crate::rpcs::pod;

fn pull() -> PullImageRequest {
    PullImageRequest {
        image: Some(ImageSpec { image: "busybox".into(), ..Default::default() }),
        ..Default::default()
    }
}

#[test]
fn a_pull_with_a_deadline_of_a_millisecond_exceeds_it_and_is_cancelled() {
    run(async {
        let server = Server::start(Node::holding("pull_image"));
        let mut images = server.image().await;
        let mut request = Request::new(pull());
        request.set_timeout(Duration::from_millis(1));
        let error = images.pull_image(request).await.unwrap_err();
        assert_eq!(error.code(), Code::DeadlineExceeded, "{error}");
        until(|| server.node.begun("pull_image") == server.node.state().cancelled.len()).await;
        let failures = server.node.state().failures.clone();
        assert!(failures[0].starts_with("PullImage: DeadlineExceeded"), "{failures:?}");
        // The next one starts anew, and does not get the cancelled one's error.
        server.node.release("pull_image");
        assert_eq!(images.pull_image(pull()).await.unwrap().into_inner().image_ref, "sha256:busybox");
    });
}

#[test]
fn a_pull_goes_on_as_long_as_one_client_waits_for_it() {
    run(async {
        let server = Server::start(Node::holding("pull_image"));
        let (mut one, mut two) = (server.image().await, server.image().await);
        let first = tokio::spawn(async move { one.pull_image(pull()).await });
        until(|| server.node.begun("pull_image") == 1).await;
        let second = tokio::spawn(async move { two.pull_image(pull()).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        first.abort();
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(server.node.state().cancelled.is_empty());
        server.node.release("pull_image");
        assert!(second.await.unwrap().is_ok());
        assert_eq!(server.node.begun("pull_image"), 1);
    });
}

#[test]
fn a_client_that_goes_away_cancels_its_exec_and_its_pull() {
    run(async {
        let server = Server::start(Node::holding("exec_sync"));
        server.node.state().held.push("pull_image");
        let (wire, socket) = server.wire().await;
        let mut runtime = runtime_over(wire.clone());
        let mut images = image_over(wire);
        let exec = ExecSyncRequest { container_id: "c".into(), cmd: vec!["sleep".into()], timeout: 0 };
        tokio::spawn(async move { runtime.exec_sync(exec).await });
        tokio::spawn(async move { images.pull_image(pull()).await });
        until(|| server.node.begun("exec_sync") + server.node.begun("pull_image") == 2).await;
        socket.cut();
        until(|| server.node.state().cancelled.len() == 2).await;
    });
}

#[test]
fn a_call_that_is_cancelled_is_cancelled_at_the_node_and_the_connection_lives_on() {
    run(async {
        let server = Server::start(Node::holding("exec_sync"));
        let mut runtime = server.runtime().await;
        let mut other = runtime.clone();
        let exec = ExecSyncRequest { container_id: "c".into(), cmd: vec!["sleep".into()], timeout: 0 };
        let call = tokio::spawn(async move { runtime.exec_sync(exec).await });
        until(|| server.node.begun("exec_sync") == 1).await;
        call.abort();
        until(|| server.node.state().cancelled == ["exec_sync"]).await;
        other.version(VersionRequest::default()).await.unwrap();
    });
}

/// kubelet takes this code, and no other, for a probe that timed out.
#[test]
fn an_exec_that_took_too_long_says_deadline_exceeded() {
    run(async {
        let server = Server::start(Node::default());
        server.node.state().output =
            Some(Err(Error::new(Kind::TimedOut, "the command took longer than 1 s")));
        let mut runtime = server.runtime().await;
        let exec = |timeout| ExecSyncRequest { container_id: "c".into(), cmd: vec!["sleep".into()], timeout };
        assert_eq!(runtime.exec_sync(exec(1)).await.unwrap_err().code(), Code::DeadlineExceeded);
        assert_eq!(server.node.state().last_timeout, Some(Some(Duration::from_secs(1))));
        let _ = runtime.exec_sync(exec(0)).await;
        assert_eq!(server.node.state().last_timeout, Some(None));
        assert_eq!(runtime.exec_sync(exec(-1)).await.unwrap_err().code(), Code::InvalidArgument);
    });
}

#[test]
fn a_server_that_is_stopped_answers_what_is_open_and_takes_nothing_new() {
    run(async {
        let mut server = Server::start(Node::holding("run_pod_sandbox"));
        let mut runtime = server.runtime().await;
        let open = tokio::spawn(async move { runtime.run_pod_sandbox(pod("web")).await });
        until(|| server.node.begun("run_pod_sandbox") == 1).await;
        server.stop.take().unwrap().send(()).unwrap();
        until(|| std::os::unix::net::UnixStream::connect(&server.path).is_err()).await;
        assert!(!server.done.is_finished());
        server.node.release("run_pod_sandbox");
        assert_eq!(open.await.unwrap().unwrap().into_inner().pod_sandbox_id, "pod0");
        server.done.await.unwrap().unwrap();
    });
}
