//! How long a CRI endpoint takes for what kubelet asks of it, and how much memory its processes have: Coracle's or another's.
//!
//! ```text
//! cargo run --bench cri -- SOCKET IMAGE [ROUNDS] [PODS] [--cni]
//! ```
//!
//! The image is there already. Times are medians over ROUNDS, one call at a time; then PODS pods are started and the list is
//! asked for. Memory is for `benches/cri-beside`, which knows the processes: it is told of each step on standard output.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::large_futures,
    reason = "a benchmark ends where something is wrong"
)]

#[path = "../cri/tests/wire/connection.rs"]
mod connection;

use std::future::Future;
use std::io::{BufRead, Write};
use std::time::{Duration, Instant};

use coracle_cri::v1::runtime_service_client::RuntimeServiceClient;
use coracle_cri::v1::*;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::codegen::http;

use connection::Wire;

struct Bench {
    client: RuntimeServiceClient<Wire>,
    image: String,
    network: NamespaceMode,
    times: Vec<(&'static str, Vec<Duration>)>,
}

impl Bench {
    /// Waits for a call, and notes how long it took.
    async fn timed<T>(&mut self, name: &'static str, call: impl Future<Output = T>) -> T {
        let began = Instant::now();
        let answer = call.await;
        let took = began.elapsed();
        match self.times.iter_mut().find(|(known, _)| *known == name) {
            Some((_, times)) => times.push(took),
            None => self.times.push((name, vec![took])),
        }
        answer
    }

    fn pod(&self, name: &str) -> PodSandboxConfig {
        let options = NamespaceOption {
            network: self.network.into(),
            pid: NamespaceMode::Container.into(),
            ..Default::default()
        };
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata {
                name: name.to_owned(),
                uid: name.to_owned(),
                namespace: "bench".to_owned(),
                attempt: 0,
            }),
            linux: Some(LinuxPodSandboxConfig {
                security_context: Some(LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn container(&self, pod: &PodSandboxConfig) -> ContainerConfig {
        let security = pod.linux.as_ref().unwrap().security_context.as_ref().unwrap();
        ContainerConfig {
            metadata: Some(ContainerMetadata { name: "box".to_owned(), attempt: 0 }),
            image: Some(ImageSpec { image: self.image.clone(), ..Default::default() }),
            command: ["sleep", "100000"].map(str::to_owned).into(),
            linux: Some(LinuxContainerConfig {
                resources: None,
                security_context: Some(LinuxContainerSecurityContext {
                    namespace_options: security.namespace_options.clone(),
                    ..Default::default()
                }),
            }),
            ..Default::default()
        }
    }

    async fn start(&mut self, name: &str) -> (String, String) {
        let pod = self.pod(name);
        let mut client = self.client.clone();
        let request = RunPodSandboxRequest { config: Some(pod.clone()), runtime_handler: String::new() };
        let began = Instant::now();
        let id = self.timed("RunPodSandbox", client.run_pod_sandbox(request)).await.unwrap();
        let id = id.into_inner().pod_sandbox_id;
        let request = CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(self.container(&pod)),
            sandbox_config: Some(pod),
        };
        let made = self.timed("CreateContainer", client.create_container(request)).await.unwrap();
        let container_id = made.into_inner().container_id;
        let request = StartContainerRequest { container_id: container_id.clone() };
        self.timed("StartContainer", client.start_container(request)).await.unwrap();
        let all = began.elapsed();
        self.timed("all three", std::future::ready(())).await;
        *self.times.iter_mut().find(|(name, _)| *name == "all three").unwrap().1.last_mut().unwrap() = all;
        (id, container_id)
    }

    async fn end(&mut self, (pod_sandbox_id, container_id): (String, String)) {
        let mut client = self.client.clone();
        let request = StopContainerRequest { container_id: container_id.clone(), timeout: 0 };
        self.timed("StopContainer", client.stop_container(request)).await.unwrap();
        let request = RemoveContainerRequest { container_id };
        self.timed("RemoveContainer", client.remove_container(request)).await.unwrap();
        let request = StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() };
        self.timed("StopPodSandbox", client.stop_pod_sandbox(request)).await.unwrap();
        let request = RemovePodSandboxRequest { pod_sandbox_id };
        self.timed("RemovePodSandbox", client.remove_pod_sandbox(request)).await.unwrap();
    }

    async fn round(&mut self, name: &str) {
        let ids = self.start(name).await;
        let mut client = self.client.clone();
        let request =
            ExecSyncRequest { container_id: ids.1.clone(), cmd: vec!["true".to_owned()], timeout: 10 };
        self.timed("ExecSync", client.exec_sync(request)).await.unwrap();
        self.end(ids).await;
    }

    fn report(&mut self) {
        for (name, times) in &mut self.times {
            times.sort();
            let median = times[times.len() / 2];
            println!("{name:16} {:9.2} ms", median.as_secs_f64() * 1e3);
        }
    }
}

/// Whoever runs this looks at the processes now, and says that it has.
fn pause(word: &str) {
    println!("== {word}");
    std::io::stdout().flush().unwrap();
    let _ = std::io::stdin().lock().lines().next();
}

async fn connect(path: &str) -> RuntimeServiceClient<Wire> {
    let stream = TokioIo::new(tokio::net::UnixStream::connect(path).await.unwrap());
    let (sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
    tokio::spawn(connection);
    RuntimeServiceClient::with_origin(Wire(sender), http::Uri::from_static("http://localhost"))
}

async fn bench(words: Vec<String>) {
    let number = |index: usize, usual: usize| words.get(index).and_then(|w| w.parse().ok()).unwrap_or(usual);
    let (rounds, pods) = (number(2, 20), number(3, 100));
    let network =
        if words.iter().any(|word| word == "--cni") { NamespaceMode::Pod } else { NamespaceMode::Node };
    let client = connect(&words[0]).await;
    let mut bench = Bench { client, image: words[1].clone(), network, times: Vec::new() };
    pause("0 pods");
    for round in 0..rounds {
        bench.round(&format!("round{round}")).await;
    }
    let mut kept = Vec::new();
    for number in 0..pods {
        kept.push(bench.start(&format!("kept{number}")).await);
        if number + 1 == 12 || number + 1 == pods {
            pause(&format!("{} pods", number + 1));
        }
    }
    let mut client = bench.client.clone();
    for _ in 0..rounds {
        let list = client.list_containers(ListContainersRequest::default());
        bench.timed("ListContainers", list).await.unwrap();
    }
    for ids in kept {
        bench.end(ids).await;
    }
    bench.report();
}

fn main() {
    // cargo bench adds its own.
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if words.len() < 2 {
        println!("usage: cargo run --bench cri -- SOCKET IMAGE [ROUNDS] [PODS] [--cni]");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(bench(words));
}
