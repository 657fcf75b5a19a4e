//! What cAdvisor asks of containerd.

use std::collections::BTreeMap;

use coracle_cri::v1::*;
use tonic::Code;

use crate::client::{Server, run};
use crate::node::Node;
use crate::raw::{CONTAINER, Fields, TASK, VERSION, bytes_field, call, fields, text};
use crate::rpcs;

fn labels(container: &Fields) -> BTreeMap<String, String> {
    let entries = container.bytes[&2].iter().map(|entry| fields(entry));
    entries.map(|entry| (text(&entry, 1), text(&entry, 2))).collect()
}

#[test]
fn the_calls_of_cadvisor_are_answered_on_both_sockets() {
    run(async {
        for only_containerd in [false, true] {
            let node = Node::default();
            let made = Server::start(Node::default());
            let mut runtime = made.runtime().await;
            runtime.run_pod_sandbox(rpcs::pod("web")).await.unwrap();
            let id =
                runtime.create_container(rpcs::container("main")).await.unwrap().into_inner().container_id;
            {
                let (from, mut to) = (made.node.state(), node.state());
                to.sandboxes = from.sandboxes.clone();
                to.containers = from.containers.clone();
            }
            let server = if only_containerd { Server::of_containerd(node) } else { Server::start(node) };
            let (wire, _socket) = server.wire().await;
            // Once, when kubelet starts.
            assert!(!text(&fields(&call(&wire, VERSION, Vec::new()).await.unwrap()), 1).is_empty());
            // For each cgroup: the record twice, and the process.
            for (id, kind, app) in [("pod0", "sandbox", "web"), (id.as_str(), "container", "main")] {
                for _ in 0..2 {
                    let answer = call(&wire, CONTAINER, bytes_field(1, id.as_bytes())).await.unwrap();
                    let container = fields(&fields(&answer).bytes[&1][0]);
                    assert_eq!(text(&container, 1), id);
                    let labels = labels(&container);
                    assert_eq!(labels["io.cri-containerd.kind"], kind);
                    assert_eq!(labels["app"], app);
                    assert_eq!(text(&container, 3), "docker.io/library/box:latest");
                    assert_eq!(text(&fields(&container.bytes[&5][0]), 2), "{}");
                    let created = fields(&container.bytes[&8][0]);
                    assert_eq!((created.numbers[&1], created.numbers[&2]), (1, 500_000_000));
                }
            }
            // cAdvisor asks again after this one: the process is not there yet.
            let early = call(&wire, TASK, bytes_field(1, id.as_bytes())).await.unwrap_err();
            assert_eq!(early.code(), Code::NotFound);
            let set = |state: ContainerState| {
                server.node.state().containers.get_mut(&id).unwrap().0.state = state.into();
            };
            set(ContainerState::ContainerRunning);
            let answer = call(&wire, TASK, bytes_field(1, id.as_bytes())).await.unwrap();
            let process = fields(&fields(&answer).bytes[&1][0]);
            assert_eq!((process.numbers[&3], process.numbers[&4]), (42, 2), "its pid, and that it runs");
            // When the cgroup is gone.
            set(ContainerState::ContainerExited);
            let answer = call(&wire, TASK, bytes_field(1, id.as_bytes())).await.unwrap();
            let process = fields(&fields(&answer).bytes[&1][0]);
            assert_eq!(
                (process.numbers[&4], process.numbers[&9]),
                (3, 3),
                "that it has exited, and its code"
            );
        }
    });
}

#[test]
fn what_does_not_exist_is_not_found_and_what_is_not_served_unimplemented() {
    run(async {
        let server = Server::of_containerd(Node::default());
        let (wire, _socket) = server.wire().await;
        for path in [CONTAINER, TASK] {
            for id in [&b"none"[..], b""] {
                assert_eq!(call(&wire, path, bytes_field(1, id)).await.unwrap_err().code(), Code::NotFound);
            }
            // Neither text nor a message.
            for bad in [vec![0x0a, 2, 0xff, 0xfe], vec![0x0a, 200], vec![0xff]] {
                let refused = call(&wire, path, bad).await.unwrap_err();
                assert_eq!(refused.code(), Code::Internal, "{refused}");
            }
            let large = [&[0x0a, 0x80, 0x80, 8][..], &[b'x'; 128 << 10]].concat();
            assert_eq!(call(&wire, path, large).await.unwrap_err().code(), Code::OutOfRange);
        }
        for path in [
            "/containerd.services.containers.v1.Containers/Delete",
            "/containerd.services.tasks.v1.Tasks/Kill",
            "/runtime.v1.RuntimeService/Version",
            "/runtime.v1.RuntimeService/RunPodSandbox",
        ] {
            assert_eq!(
                call(&wire, path, Vec::new()).await.unwrap_err().code(),
                Code::Unimplemented,
                "{path}"
            );
        }
    });
}
