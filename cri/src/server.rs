//! Routes a request to its service, enforces its deadline, and runs blocking work on other threads.

use std::convert::Infallible;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Code, Status};

use crate::MESSAGE_LIMIT;
use crate::backend::Backend;
use crate::call::Call;
use crate::containerd;
use crate::error::{Error, Result};
use crate::lanes::{Lane, Lanes};
use crate::limits::{Counted, Load};
use crate::parts::{Parts, parts};
use crate::single_flight::{Abandoned, SingleFlight};
use crate::streaming::Urls;
use crate::v1;
use crate::v1::image_service_server::ImageServiceServer;
use crate::v1::runtime_service_server::RuntimeServiceServer;

/// What a socket serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Services {
    /// The CRI, and what cAdvisor asks of containerd.
    All,
    /// Only what cAdvisor asks of containerd. It changes nothing.
    Containerd,
}

/// Routes a request to its service, enforces its deadline, and reports failures to the backend.
pub(crate) struct Router<B> {
    backend: Arc<B>,
    load: Arc<Load>,
    services: Services,
    server: Arc<Server<B>>,
    runtime: RuntimeServiceServer<Server<B>>,
    image: ImageServiceServer<Server<B>>,
}

impl<B> Clone for Router<B> {
    fn clone(&self) -> Self {
        Self {
            backend: Arc::clone(&self.backend),
            load: Arc::clone(&self.load),
            services: self.services,
            server: Arc::clone(&self.server),
            runtime: self.runtime.clone(),
            image: self.image.clone(),
        }
    }
}

impl<B: Backend> Router<B> {
    pub(crate) fn new(
        backend: Arc<B>,
        load: Arc<Load>,
        services: Services,
        lanes: Lanes,
        urls: Option<Urls>,
    ) -> Self {
        let server = Arc::new(Server::new(Arc::clone(&backend), lanes, urls, load.limits.part));
        let runtime = RuntimeServiceServer::from_arc(Arc::clone(&server))
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        let image = ImageServiceServer::from_arc(Arc::clone(&server))
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        Self { backend, load, services, server, runtime, image }
    }

    pub(crate) async fn handle(
        mut self,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Body>, Infallible> {
        let path = request.uri().path().to_owned();
        let rpc = path.rsplit('/').next().unwrap_or_default();
        let deadline = timeout_of(request.headers());
        let request = request.map(|body| Counted::new(body, &self.load));
        let open = self.load.open();
        let response = match (&open, deadline) {
            (Err(status), _) => status.clone().into_http(),
            (Ok(_), Some(limit)) => match tokio::time::timeout(limit, self.route(&path, request)).await {
                Ok(response) => response,
                Err(_) => Status::deadline_exceeded(format!("{rpc} took longer than {limit:?}")).into_http(),
            },
            (Ok(_), None) => self.route(&path, request).await,
        };
        if let Some(status) = Status::from_header_map(response.headers()).filter(|s| s.code() != Code::Ok) {
            self.backend.failed(rpc, &format!("{:?}", status.code()), status.message());
        }
        Ok(response)
    }

    async fn route(&mut self, path: &str, request: http::Request<Counted>) -> http::Response<Body> {
        if containerd::is_service(path) {
            return containerd::call(Arc::clone(&self.server), path, request).await;
        }
        let response = match path.rsplit_once('/').map_or("", |(service, _)| service) {
            _ if self.services == Services::Containerd => {
                let served = "this socket serves only what cAdvisor asks of containerd";
                Ok(Status::unimplemented(format!("there is no call {path}: {served}")).into_http())
            }
            "/runtime.v1.RuntimeService" => self.runtime.call(request).await,
            "/runtime.v1.ImageService" => self.image.call(request).await,
            _ => Ok(Status::unimplemented(format!("there is no call {path}: this is CRI v1")).into_http()),
        };
        match response {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The `grpc-timeout` of a request: up to eight digits and a unit, by the gRPC protocol.
fn timeout_of(headers: &http::HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// Both services: the backend, and the slow calls under way.
pub(crate) struct Server<B> {
    pub(crate) backend: Arc<B>,
    lanes: Lanes,
    /// None without a streaming server.
    urls: Option<Urls>,
    /// How long a client may take to read the next part of a list.
    part: Duration,
    pub(crate) run_sandbox: SingleFlight<v1::PodSandboxMetadata, v1::RunPodSandboxRequest, String>,
    pub(crate) stop_sandbox: SingleFlight<String, (), ()>,
    pub(crate) remove_sandbox: SingleFlight<String, (), ()>,
    pub(crate) create_container:
        SingleFlight<(String, v1::ContainerMetadata), v1::CreateContainerRequest, String>,
    pub(crate) start_container: SingleFlight<String, (), ()>,
    pub(crate) remove_container: SingleFlight<String, (), ()>,
    pub(crate) pull_image: SingleFlight<Vec<u8>, (), String>,
}

impl<B: Backend> Server<B> {
    fn new(backend: Arc<B>, lanes: Lanes, urls: Option<Urls>, part: Duration) -> Self {
        let (finishes, work, end) = (Abandoned::Finishes, lanes.of(Lane::Work), lanes.of(Lane::End));
        Self {
            backend,
            part,
            run_sandbox: SingleFlight::new(finishes, work),
            stop_sandbox: SingleFlight::new(finishes, end),
            remove_sandbox: SingleFlight::new(finishes, end),
            create_container: SingleFlight::new(finishes, work),
            start_container: SingleFlight::new(finishes, work),
            remove_container: SingleFlight::new(finishes, end),
            pull_image: SingleFlight::new(Abandoned::IsCancelled, lanes.of(Lane::Pull)),
            lanes,
            urls,
        }
    }

    /// What makes the URLs of sessions.
    pub(crate) fn urls(&self, rpc: &str) -> Result<&Urls> {
        self.urls.as_ref().ok_or_else(|| Error::unimplemented(rpc))
    }

    /// A list that is streamed in parts.
    pub(crate) fn parts<T, R: Send + 'static>(&self, items: Vec<T>, part: impl Fn(Vec<T>) -> R) -> Parts<R> {
        parts(items, self.part, part)
    }

    /// Runs blocking work on a thread of its lane. All blocking work goes through here.
    pub(crate) async fn ask<A: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&B) -> Result<A> + Send + 'static,
    ) -> Result<A> {
        let backend = Arc::clone(&self.backend);
        self.lanes.of(lane).run(move || work(&backend)).await
    }

    /// As [`Server::ask`], for work that can be cancelled.
    pub(crate) async fn ask_while_waiting<A: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&B, &Call) -> Result<A> + Send + 'static,
    ) -> Result<A> {
        let call = Call::default();
        let _gone = CancelOnDrop(call.clone());
        self.ask(lane, move |backend| work(backend, &call)).await
    }

    /// As [`Server::ask`], for work that a retry must not start a second time.
    pub(crate) async fn ask_once<K, Q, A>(
        &self,
        calls: &SingleFlight<K, Q, A>,
        key: K,
        request: Q,
        work: impl FnOnce(&B, &Call) -> Result<A> + Send + 'static,
    ) -> Result<A>
    where
        K: Clone + Eq + Hash + Send + 'static,
        Q: PartialEq + Send + 'static,
        A: Clone + Send + Sync + 'static,
    {
        let backend = Arc::clone(&self.backend);
        calls.join(key, request, move |call| work(&backend, call)).await
    }
}

struct CancelOnDrop(Call);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
