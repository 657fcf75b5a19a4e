//! The three calls of containerd's API that the containerd handler of cAdvisor makes, which is a part of kubelet.
//!
//! cAdvisor labels the metrics of a cgroup with pod, namespace, container and image only if containerd or CRI-O says whose
//! it is, and asks none but these two. So these calls make `/metrics/cadvisor` and `/stats/summary` complete:
//!
//! | call | what is read of the response |
//! |---|---|
//! | `Version.Version`, once | that it succeeds |
//! | `Containers.Get`, for each new cgroup whose name has an id | labels, image, spec, created_at |
//! | `Tasks.Get`, then, and when the cgroup is gone | pid, status, exit_status |
//!
//! kubelet panics on an answer without its message, so what does not exist is `NotFound`. SPEC(containerd api 1.10)

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use prost::Message;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use crate::MESSAGE_LIMIT;
use crate::backend::{Backend, RuntimeBackend};
use crate::error::Result;
use crate::lanes::Lane;
use crate::limits::Counted;
use crate::server::Server;

/// A pod or container as containerd's API has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Record {
    /// The labels that kubelet set.
    pub labels: BTreeMap<String, String>,
    /// The name of the image, with its registry.
    pub image: String,
    /// When it was created, in nanoseconds since 1970.
    pub created_ns: i64,
    /// Whether it is a pod: cAdvisor takes the network metrics of a pod from this one.
    pub is_sandbox: bool,
}

/// The process of a pod or container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// It runs. cAdvisor reads the network's counters from `/proc/<pid>/net/dev`.
    Running {
        /// Its process id.
        pid: u32,
    },
    /// It has exited.
    Stopped {
        /// Its exit code.
        exit_code: u32,
    },
}

/// The label that tells a pod from a container.
const KIND: &str = "io.cri-containerd.kind";

/// The limit of a request, in bytes: it consists of one id.
const REQUEST: usize = 64 << 10;

const VERSION: &str = "/containerd.services.version.v1.Version/Version";
const CONTAINER: &str = "/containerd.services.containers.v1.Containers/Get";
const TASK: &str = "/containerd.services.tasks.v1.Tasks/Get";

/// Whether a path is that of a service in this file.
pub(crate) fn is_service(path: &str) -> bool {
    path.starts_with("/containerd.services.")
}

#[derive(Clone, PartialEq, Message)]
struct Empty {}

/// The request of both calls named Get.
#[derive(Clone, PartialEq, Message)]
struct GetRequest {
    #[prost(string, tag = "1")]
    id: String,
}

#[derive(Clone, PartialEq, Message)]
struct VersionResponse {
    #[prost(string, tag = "1")]
    version: String,
    #[prost(string, tag = "2")]
    revision: String,
}

#[derive(Clone, PartialEq, Message)]
struct GetContainerResponse {
    #[prost(message, optional, tag = "1")]
    container: Option<Container>,
}

#[derive(Clone, PartialEq, Message)]
struct Container {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(btree_map = "string, string", tag = "2")]
    labels: BTreeMap<String, String>,
    #[prost(string, tag = "3")]
    image: String,
    #[prost(message, optional, tag = "5")]
    spec: Option<Any>,
    #[prost(message, optional, tag = "8")]
    created_at: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

#[derive(Clone, PartialEq, Message)]
struct GetTaskResponse {
    #[prost(message, optional, tag = "1")]
    process: Option<Process>,
}

#[derive(Clone, PartialEq, Message)]
struct Process {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    id: String,
    #[prost(uint32, tag = "3")]
    pid: u32,
    #[prost(int32, tag = "4")]
    status: i32,
    #[prost(uint32, tag = "9")]
    exit_status: u32,
}

/// The values of `containerd.v1.types.Status`.
const RUNNING: i32 = 2;
const STOPPED: i32 = 3;

/// Answers one of the three calls; all others are `Unimplemented`.
pub(crate) async fn call<B: Backend>(
    server: Arc<Server<B>>,
    path: &str,
    request: http::Request<Counted>,
) -> http::Response<Body> {
    match path {
        VERSION => unary(request, move |_: Empty| async move { server.containerd_version().await }).await,
        CONTAINER => {
            unary(request, move |get: GetRequest| async move { server.containerd_container(get.id).await })
                .await
        }
        TASK => {
            unary(request, move |get: GetRequest| async move { server.containerd_task(get.id).await }).await
        }
        _ => {
            let served = "only those calls of containerd's API are served that cAdvisor makes";
            Status::unimplemented(format!("there is no call {path}: {served}")).into_http()
        }
    }
}

impl<B: Backend> Server<B> {
    async fn containerd_version(&self) -> Result<VersionResponse> {
        let version = self.ask(Lane::Read, B::version).await?;
        Ok(VersionResponse { version: version.runtime_version, revision: version.runtime_name })
    }

    async fn containerd_container(&self, id: String) -> Result<GetContainerResponse> {
        let own = id.clone();
        let record = self.ask(Lane::Read, move |node| node.runtime().containerd_record(&own)).await?;
        let mut labels = record.labels;
        let kind = if record.is_sandbox { "sandbox" } else { "container" };
        labels.insert(KIND.to_owned(), kind.to_owned());
        let (seconds, nanos) = (record.created_ns.div_euclid(NANOS), record.created_ns.rem_euclid(NANOS));
        let created_at = Timestamp { seconds, nanos: nanos.try_into().unwrap_or_default() };
        // Read only for the names of variables, and only if kubelet asked for some, which it does not.
        let spec = Any { type_url: SPEC_TYPE.to_owned(), value: b"{}".to_vec() };
        let (spec, created_at) = (Some(spec), Some(created_at));
        let container = Some(Container { id, labels, image: record.image, spec, created_at });
        Ok(GetContainerResponse { container })
    }

    async fn containerd_task(&self, id: String) -> Result<GetTaskResponse> {
        let own = id.clone();
        let task = self.ask(Lane::Read, move |node| node.runtime().containerd_task(&own)).await?;
        let (status, pid, exit_status) = match task {
            Task::Running { pid } => (RUNNING, pid, 0),
            Task::Stopped { exit_code } => (STOPPED, 0, exit_code),
        };
        let process = Process { container_id: id.clone(), id, pid, status, exit_status };
        Ok(GetTaskResponse { process: Some(process) })
    }
}

const NANOS: i64 = 1_000_000_000;
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// Decodes a request, and encodes the response to it.
async fn unary<Q, A, F>(request: http::Request<Counted>, answer: impl FnOnce(Q) -> F) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    F: Future<Output = Result<A>> + Send + 'static,
{
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<A, Q>::default())
        .apply_max_message_size_config(Some(REQUEST), Some(MESSAGE_LIMIT));
    grpc.unary(Method(Some(answer)), request).await
}

/// A call in the form that tonic calls it, once.
struct Method<M>(Option<M>);

impl<Q, A, F, M> Service<Request<Q>> for Method<M>
where
    M: FnOnce(Q) -> F,
    F: Future<Output = Result<A>> + Send + 'static,
{
    type Response = Response<A>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<A>, Status>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let answer = self.0.take().map(|method| method(request.into_inner()));
        Box::pin(async move {
            match answer {
                Some(answer) => Ok(Response::new(answer.await?)),
                None => Err(Status::internal("the call was made twice")),
            }
        })
    }
}
