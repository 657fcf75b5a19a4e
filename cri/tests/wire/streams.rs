//! Streams that are read slowly, not at all, or for ever.

use std::time::Duration;

use coracle_cri::Limits;
use coracle_cri::v1::*;
use tonic::Code;

use crate::client::{Server, run, runtime_over, until};
use crate::node::Node;
use crate::rpcs;

fn event(id: &str) -> ContainerEventResponse {
    ContainerEventResponse { container_id: id.to_owned(), ..Default::default() }
}

#[test]
fn events_reach_every_listener_in_order_also_after_idle_times() {
    run(async {
        let server = Server::start(Node::default());
        let listen = async || {
            let mut client = server.runtime().await;
            client.get_container_events(GetEventsRequest {}).await.unwrap().into_inner()
        };
        let (mut one, mut two) = (listen().await, listen().await);
        for round in 0..3 {
            for number in 0..10 {
                server.node.events.publish(&event(&format!("{round}.{number}")));
            }
            for stream in [&mut one, &mut two] {
                for number in 0..10 {
                    let got = stream.message().await.unwrap().unwrap();
                    assert_eq!(got.container_id, format!("{round}.{number}"));
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        drop(one);
        // The connection is told, and then the listener is forgotten.
        drop(two);
        until(|| !server.node.events.has_listeners()).await;
    });
}

#[test]
fn a_listener_whose_connection_breaks_is_forgotten() {
    run(async {
        let server = Server::start(Node::default());
        let (wire, socket) = server.wire().await;
        let stream = runtime_over(wire).get_container_events(GetEventsRequest {}).await.unwrap();
        assert!(server.node.events.has_listeners());
        socket.cut();
        until(|| !server.node.events.has_listeners()).await;
        drop(stream);
    });
}

#[test]
fn a_listener_that_does_not_read_is_cut_off_and_holds_up_nobody() {
    run(async {
        let server = Server::start(Node::default());
        let mut client = server.runtime().await;
        let mut slow = client.get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
        let large = event(&"x".repeat(64 << 10));
        // Far more than the windows of HTTP/2 and the queue hold together.
        for _ in 0..1000 {
            server.node.events.publish(&large);
            tokio::task::yield_now().await;
        }
        assert!(!server.node.events.has_listeners(), "its queue is not filled any more");
        let mut read = 0;
        let end = loop {
            match slow.message().await {
                Ok(Some(_)) => read += 1,
                Ok(None) => panic!("the stream ended without an error"),
                Err(error) => break error,
            }
        };
        assert_eq!(end.code(), Code::ResourceExhausted, "{end}");
        assert!(read < 1000, "{read}");
        client.version(VersionRequest::default()).await.unwrap();
        // It may listen anew.
        let mut again = client.get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
        server.node.events.publish(&event("new"));
        assert_eq!(again.message().await.unwrap().unwrap().container_id, "new");
    });
}

#[test]
fn a_stop_ends_the_stream_of_events() {
    run(async {
        let mut server = Server::start(Node::default());
        let mut client = server.runtime().await;
        let mut stream = client.get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
        server.node.events.publish(&event("last"));
        drop(server.stop.take());
        assert_eq!(stream.message().await.unwrap().unwrap().container_id, "last");
        assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
        // The server does not wait for a client that only listens.
        (&mut server.done).await.unwrap().unwrap();
    });
}

#[test]
fn a_connection_that_only_listens_is_not_idle() {
    run(async {
        let limits = Limits { connections: 2, ..Limits::default() };
        let server = Server::with(Node::default(), limits);
        let mut listener = server.runtime().await;
        let mut stream = listener.get_container_events(GetEventsRequest {}).await.unwrap().into_inner();
        for _ in 0..4 {
            server.runtime().await.version(VersionRequest::default()).await.unwrap();
        }
        server.node.events.publish(&event("still here"));
        assert_eq!(stream.message().await.unwrap().unwrap().container_id, "still here");
    });
}

#[test]
fn a_list_that_is_not_read_is_cut_off() {
    run(async {
        let limits = Limits { part: Duration::from_millis(100), ..Limits::default() };
        let server = Server::with(Node::default(), limits);
        let sandbox = PodSandbox {
            annotations: [("large".to_owned(), "x".repeat(8 << 10))].into(),
            ..PodSandbox::default()
        };
        for number in 0..8 * 256 {
            let own = PodSandbox { id: number.to_string(), ..sandbox.clone() };
            let config = rpcs::pod("any").config.unwrap();
            server.node.state().sandboxes.insert(number.to_string(), (own, config));
        }
        let mut client = server.runtime().await;
        let all = client.stream_pod_sandboxes(StreamPodSandboxesRequest::default()).await.unwrap();
        let (mut all, mut count) = (all.into_inner(), 0);
        while let Some(part) = all.message().await.unwrap() {
            count += part.pod_sandboxes.len();
        }
        assert_eq!(count, 8 * 256, "a client that reads gets everything");
        let slow = client.stream_pod_sandboxes(StreamPodSandboxesRequest::default()).await.unwrap();
        let mut slow = slow.into_inner();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let end = loop {
            match slow.message().await {
                Ok(part) => assert!(part.is_some(), "the list ended as if it were whole"),
                Err(error) => break error,
            }
        };
        assert_eq!(end.code(), Code::ResourceExhausted, "{end}");
    });
}
