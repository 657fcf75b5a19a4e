//! A server on a socket of its own, and clients of it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use coracle_cri::v1::image_service_client::ImageServiceClient;
use coracle_cri::v1::runtime_service_client::RuntimeServiceClient;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::codegen::http;

use crate::connection::Wire;
use crate::node::Node;

/// Longer than any test takes; a test that hangs fails by it.
const LIMIT: Duration = Duration::from_secs(60);

/// What a connection goes over, to cut it.
pub(crate) struct Socket(std::os::unix::net::UnixStream);

impl Socket {
    pub(crate) fn cut(self) {
        self.0.shutdown(std::net::Shutdown::Both).unwrap();
    }
}

/// Completes when the server is to stop.
type Until = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

pub(crate) struct Server {
    pub(crate) node: Arc<Node>,
    pub(crate) path: std::path::PathBuf,
    pub(crate) stop: Option<oneshot::Sender<()>>,
    pub(crate) done: JoinHandle<std::io::Result<()>>,
    _dir: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start(node: Node) -> Self {
        Self::with(node, coracle_cri::Limits::default())
    }

    /// One with a streaming server.
    pub(crate) fn with_streaming(node: Node) -> Self {
        let streaming = coracle_cri::Streaming::bind(([127, 0, 0, 1], 0).into(), None).unwrap();
        Self::with_all(node, coracle_cri::Limits::default(), Some(streaming))
    }

    /// One with limits of its own.
    pub(crate) fn with(node: Node, limits: coracle_cri::Limits) -> Self {
        Self::with_all(node, limits, None)
    }

    fn with_all(node: Node, limits: coracle_cri::Limits, streaming: Option<coracle_cri::Streaming>) -> Self {
        Self::of(node, |listener, node, until| {
            tokio::spawn(coracle_cri::serve(listener, streaming, node, limits, until))
        })
    }

    /// One that serves only what cAdvisor asks of containerd.
    pub(crate) fn of_containerd(node: Node) -> Self {
        let limits = coracle_cri::Limits::default();
        Self::of(node, |listener, node, until| {
            tokio::spawn(async move {
                coracle_cri::serve_containerd(listener, node, limits, until).await;
                Ok(())
            })
        })
    }

    fn of(
        node: Node,
        serve: impl FnOnce(UnixListener, Arc<Node>, Until) -> JoinHandle<std::io::Result<()>>,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cri.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let node = Arc::new(node);
        let (stop, stopped) = oneshot::channel();
        let until = Box::pin(async move { drop(stopped.await) });
        let done = serve(listener, Arc::clone(&node), until);
        Self { node, path, stop: Some(stop), done, _dir: dir }
    }

    pub(crate) async fn wire(&self) -> (Wire, Socket) {
        let stream = std::os::unix::net::UnixStream::connect(&self.path).unwrap();
        let socket = Socket(stream.try_clone().unwrap());
        stream.set_nonblocking(true).unwrap();
        let stream = TokioIo::new(UnixStream::from_std(stream).unwrap());
        let (sender, connection) = handshake(TokioExecutor::new(), stream).await.unwrap();
        tokio::spawn(connection);
        (Wire(sender), socket)
    }

    pub(crate) async fn runtime(&self) -> RuntimeServiceClient<Wire> {
        runtime_over(self.wire().await.0)
            .max_decoding_message_size(coracle_cri::MESSAGE_LIMIT)
            .max_encoding_message_size(2 * coracle_cri::MESSAGE_LIMIT)
    }

    pub(crate) async fn image(&self) -> ImageServiceClient<Wire> {
        image_over(self.wire().await.0)
    }
}
/// HTTP/2 asks for a host, which a socket does not have.
fn origin() -> http::Uri {
    http::Uri::from_static("http://localhost")
}

/// For calls that no generated client has.
pub(crate) fn plain(wire: Wire) -> tonic::client::Grpc<Wire> {
    tonic::client::Grpc::with_origin(wire, origin())
}

pub(crate) fn runtime_over(wire: Wire) -> RuntimeServiceClient<Wire> {
    RuntimeServiceClient::with_origin(wire, origin())
}

pub(crate) fn image_over(wire: Wire) -> ImageServiceClient<Wire> {
    ImageServiceClient::with_origin(wire, origin())
}

/// Runs a test on the runtime the daemon has: one thread, and threads for what blocks.
pub(crate) fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(LIMIT, test).await.expect("the test hangs") });
    // Work of the fake node that is never let go must not hold up the end.
    runtime.shutdown_background();
}

/// Waits until something is so.
pub(crate) async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
