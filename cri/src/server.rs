//! The server: connections, deadlines, and the one door to work that blocks.

use std::convert::Infallible;
use std::future::Future;
use std::hash::Hash;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::{Code, Status};

use crate::MESSAGE_LIMIT;
use crate::backend::Backend;
use crate::call::Call;
use crate::error::Result;
use crate::flights::{Abandoned, Flights};
use crate::lanes::{Lane, Lanes};
use crate::v1;
use crate::v1::image_service_server::ImageServiceServer;
use crate::v1::runtime_service_server::RuntimeServiceServer;

/// Calls that one connection may have open; kubelet uses one connection for everything.
const OPEN_CALLS: u32 = 1000;

/// The pause after an accept that failed, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers the CRI on `listener` until `shutdown` is ready, and then until every open call is answered. Runs on a
/// current-thread runtime with I/O and time enabled; everything that blocks goes to its threads for blocking work, of
/// which there have to be [`Lanes::threads`].
pub async fn serve<B: Backend>(
    listener: UnixListener,
    backend: Arc<B>,
    lanes: Lanes,
    shutdown: impl Future<Output = ()>,
) {
    let router = Router::new(backend, lanes);
    let (stop, stopping) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            accepted = listener.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, router.clone(), stopping.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    drop(listener);
    stop.send_replace(true);
    while connections.join_next().await.is_some() {}
}

async fn connection<B: Backend>(stream: UnixStream, router: Router<B>, mut stopping: watch::Receiver<bool>) {
    let answer = service_fn(move |request| router.clone().answer(request));
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.max_concurrent_streams(OPEN_CALLS);
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), answer));
    // A connection's errors are the client's to see: it is gone, or does not speak HTTP/2.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopping.wait_for(|stop| *stop) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// Finds the service of a request, holds it to its deadline, and tells the backend of failures.
struct Router<B> {
    backend: Arc<B>,
    runtime: RuntimeServiceServer<Server<B>>,
    image: ImageServiceServer<Server<B>>,
}

impl<B> Clone for Router<B> {
    fn clone(&self) -> Self {
        Self { backend: Arc::clone(&self.backend), runtime: self.runtime.clone(), image: self.image.clone() }
    }
}

impl<B: Backend> Router<B> {
    fn new(backend: Arc<B>, lanes: Lanes) -> Self {
        let server = Arc::new(Server::new(Arc::clone(&backend), lanes));
        let runtime = RuntimeServiceServer::from_arc(Arc::clone(&server))
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        let image = ImageServiceServer::from_arc(server)
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT);
        Self { backend, runtime, image }
    }

    async fn answer(mut self, request: http::Request<Incoming>) -> Result<http::Response<Body>, Infallible> {
        let path = request.uri().path().to_owned();
        let rpc = path.rsplit('/').next().unwrap_or_default();
        let deadline = timeout_of(request.headers());
        let response = match deadline {
            Some(limit) => match tokio::time::timeout(limit, self.route(&path, request)).await {
                Ok(response) => response,
                Err(_) => Status::deadline_exceeded(format!("{rpc} took longer than {limit:?}")).into_http(),
            },
            None => self.route(&path, request).await,
        };
        if let Some(status) = Status::from_header_map(response.headers()).filter(|s| s.code() != Code::Ok) {
            self.backend.failed(rpc, &format!("{:?}", status.code()), status.message());
        }
        Ok(response)
    }

    async fn route(&mut self, path: &str, request: http::Request<Incoming>) -> http::Response<Body> {
        let answer = match path.rsplit_once('/').map_or("", |(service, _)| service) {
            "/runtime.v1.RuntimeService" => self.runtime.call(request).await,
            "/runtime.v1.ImageService" => self.image.call(request).await,
            _ => Ok(Status::unimplemented(format!("there is no call {path}: this is CRI v1")).into_http()),
        };
        match answer {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

/// The `grpc-timeout` of a request: up to eight digits and a unit, as the gRPC protocol has it.
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

/// Both services: the backend, and the slow calls that are being worked on.
pub(crate) struct Server<B> {
    pub(crate) backend: Arc<B>,
    lanes: Lanes,
    pub(crate) run_sandbox: Flights<v1::PodSandboxMetadata, v1::RunPodSandboxRequest, String>,
    pub(crate) stop_sandbox: Flights<String, (), ()>,
    pub(crate) remove_sandbox: Flights<String, (), ()>,
    pub(crate) create_container: Flights<(String, v1::ContainerMetadata), v1::CreateContainerRequest, String>,
    pub(crate) start_container: Flights<String, (), ()>,
    pub(crate) remove_container: Flights<String, (), ()>,
    pub(crate) pull_image: Flights<Vec<u8>, (), String>,
}

impl<B: Backend> Server<B> {
    fn new(backend: Arc<B>, lanes: Lanes) -> Self {
        Self {
            backend,
            run_sandbox: Flights::new(Lane::Work, Abandoned::Finishes),
            stop_sandbox: Flights::new(Lane::End, Abandoned::Finishes),
            remove_sandbox: Flights::new(Lane::End, Abandoned::Finishes),
            create_container: Flights::new(Lane::Work, Abandoned::Finishes),
            start_container: Flights::new(Lane::Work, Abandoned::Finishes),
            remove_container: Flights::new(Lane::End, Abandoned::Finishes),
            pull_image: Flights::new(Lane::Pull, Abandoned::IsCancelled),
            lanes,
        }
    }

    /// The one door to work that blocks: runs it on a thread for such work, in its lane.
    pub(crate) async fn ask<A: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&B) -> Result<A> + Send + 'static,
    ) -> Result<A> {
        let backend = Arc::clone(&self.backend);
        self.lanes.run(lane, move || work(&backend)).await?
    }

    /// As [`Server::ask`], for work that wants to know when its client has gone.
    pub(crate) async fn ask_while_waiting<A: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce(&B, &Call) -> Result<A> + Send + 'static,
    ) -> Result<A> {
        let call = Call::default();
        let _gone = CancelOnDrop(call.clone());
        self.ask(lane, move |backend| work(backend, &call)).await
    }

    /// As [`Server::ask`], for work that a retry does not begin a second time.
    pub(crate) async fn ask_once<K, Q, A>(
        &self,
        flights: &Flights<K, Q, A>,
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
        flights.join(&self.lanes, key, request, move |call| work(&backend, call)).await
    }
}

struct CancelOnDrop(Call);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}
