//! HTTP/1.1 connections: proxies, name lookup, both address families, TLS; one request at a time.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderMap, HeaderValue, PROXY_AUTHORIZATION};
use hyper::{Method, StatusCode, Uri};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tower_service::Service;

use super::endpoint::{Tls, host_of, is_loopback};
use super::lookup::Lookup;
use super::tls;
use super::{Cancel, Timing};
use crate::error::{Doing, Error, Kind, Result};

/// The most bytes of a body buffered here; the kernel throttles the sender.
const BUFFER: usize = 64 << 10;
/// How long a host that may use plain HTTP has to complete a TLS handshake.
const PATIENCE_WITH_TLS: Duration = Duration::from_secs(3);

type Sender = http1::SendRequest<Full<Bytes>>;

/// The state shared by all connections.
pub(super) struct Dialer {
    pub(super) timing: Timing,
    cancel: Cancel,
    proxies: Matcher,
    tls: Mutex<HashMap<Tls, Arc<rustls::ClientConfig>>>,
}

/// A request that can be sent again.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A response whose body is read piece by piece.
pub(super) struct Response {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    body: Incoming,
    route: Route,
    sender: Sender,
}

/// The target of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Route {
    secure: bool,
    authority: String,
    tls: Tls,
}

impl Route {
    fn to(uri: &Uri, tls: &Tls) -> Self {
        Self { secure: is_secure(uri), authority: authority(uri).to_owned(), tls: tls.clone() }
    }
}

/// The connections of one thread.
pub(super) struct Wire {
    dialer: Arc<Dialer>,
    idle: HashMap<Route, Sender>,
    runtime: Option<Runtime>,
}

impl Dialer {
    pub(super) fn new(timing: Timing, cancel: Cancel) -> Self {
        Self { timing, cancel, proxies: Matcher::from_env(), tls: Mutex::default() }
    }

    fn tls_config(&self, tls: &Tls) -> Result<Arc<rustls::ClientConfig>> {
        let mut known = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = known.get(tls) {
            return Ok(Arc::clone(config));
        }
        let config = tls::config(tls)?;
        known.insert(tls.clone(), Arc::clone(&config));
        Ok(config)
    }

    async fn dial(&self, uri: &Uri, tls: &Tls, proxy: Option<&Intercept>) -> Result<Sender> {
        let stream = self.reach(uri, proxy).await?;
        if !is_secure(uri) {
            return shake_hands(stream).await;
        }
        let secured = self.secure(uri, tls, stream).await?;
        shake_hands(TokioIo::new(secured.map_err(tls::explain)?)).await
    }

    /// A connection to the host of `uri`, or to the proxy for a plain HTTP request.
    async fn reach(&self, uri: &Uri, proxy: Option<&Intercept>) -> Result<TokioIo<TcpStream>> {
        let authority = authority(uri);
        let mut connector = HttpConnector::new_with_resolver(Lookup);
        connector.enforce_http(false);
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(self.timing.connect));
        let Some(proxy) = proxy else {
            let unreachable = unreachable(format!("connect to {authority}"));
            return connector.call(uri.clone()).await.map_err(boxed).map_err(unreachable);
        };
        let through = proxy.uri().clone();
        if through.scheme_str() != Some("http") {
            return Err(Error::new(Kind::Unsupported, format!("the proxy {through} is not an http:// one")));
        }
        let unreachable = unreachable(format!("connect to {authority} through the proxy {through}"));
        if !is_secure(uri) {
            return connector.call(through).await.map_err(boxed).map_err(unreachable);
        }
        let mut tunnel = Tunnel::new(through, connector);
        if let Some(auth) = proxy.basic_auth() {
            tunnel = tunnel.with_auth(auth.clone());
        }
        tunnel.call(uri.clone()).await.map_err(boxed).map_err(unreachable)
    }

    /// The TLS handshake; the caller interprets its failure.
    async fn secure(&self, uri: &Uri, tls: &Tls, stream: TokioIo<TcpStream>) -> Result<io::Result<Secured>> {
        let name = tls::server_name(host_of(authority(uri)))?;
        let connector = tokio_rustls::TlsConnector::from(self.tls_config(tls)?);
        Ok(connector.connect(name, stream.into_inner()).await)
    }
}

type Secured = tokio_rustls::client::TlsStream<TcpStream>;

fn authority(uri: &Uri) -> &str {
    uri.authority().map_or("", |authority| authority.as_str())
}

fn unreachable(doing: String) -> impl FnOnce(Cause) -> Error {
    |error| Error::new(Kind::Unreachable, doing).because(error)
}

async fn shake_hands<T>(stream: T) -> Result<Sender>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = http1::Builder::new();
    builder.max_buf_size(BUFFER);
    let (sender, connection) = builder.handshake(stream).await.map_err(lost)?;
    // Errors of the connection reach the caller that waits for a response or a body.
    tokio::spawn(connection);
    Ok(sender)
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

fn boxed(error: impl Into<Cause>) -> Cause {
    error.into()
}

fn lost(error: hyper::Error) -> Error {
    Error::new(Kind::Unreachable, "the connection broke").because(error)
}

fn is_secure(uri: &Uri) -> bool {
    uri.scheme_str() == Some("https")
}

impl Wire {
    pub(super) fn new(dialer: Arc<Dialer>) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().enable_time().build();
        let runtime = runtime.doing(|| "set up the network client")?;
        Ok(Self { dialer, idle: HashMap::new(), runtime: Some(runtime) })
    }

    /// Waits for `future`, at most for `limit`.
    fn wait<T>(&self, limit: Duration, doing: &str, future: impl Future<Output = T>) -> Result<T> {
        let Some(runtime) = &self.runtime else { return Err(Error::new(Kind::Bug, "the client is gone")) };
        let waited = runtime.block_on(async {
            tokio::select! {
                reason = self.dialer.cancel.wait() => Err(reason),
                waited = tokio::time::timeout(limit, future) => Ok(waited),
            }
        })?;
        waited.map_err(|_elapsed| {
            Error::new(Kind::TimedOut, format!("{doing}: nothing was received for {} s", limit.as_secs_f64()))
        })
    }

    /// Waits before a retry.
    pub(super) fn pause(&self, duration: Duration) -> Result<()> {
        let sleep = async move { tokio::time::sleep(duration).await };
        self.wait(duration + Duration::from_secs(1), "wait", sleep)
    }

    /// Sends a request and waits for the head of the response. `connect` limits the time for a connection.
    pub(super) fn send(&mut self, request: &Request, tls: &Tls, connect: Duration) -> Result<Response> {
        let route = Route::to(&request.uri, tls);
        let proxy = self.proxy(&request.uri);
        if let Some(sender) = self.idle.remove(&route)
            && let Ok(answer) = self.exchange(sender, request, proxy.as_ref(), &route)
        {
            return Ok(answer);
        }
        // The registry may have closed an idle connection, so retry on a new one.
        let dialer = Arc::clone(&self.dialer);
        let dial = dialer.dial(&request.uri, tls, proxy.as_ref());
        let sender = self.wait(connect, &format!("connect to {}", route.authority), dial)??;
        self.exchange(sender, request, proxy.as_ref(), &route)
    }

    /// Returns whether the host of `uri` uses TLS. An unreachable host is an error, and so is invalid TLS.
    pub(super) fn speaks_tls(&mut self, uri: &Uri, tls: &Tls, connect: Duration) -> Result<bool> {
        let (dialer, proxy) = (Arc::clone(&self.dialer), self.proxy(uri));
        let doing = format!("connect to {}", authority(uri));
        let stream = self.wait(connect, &doing, dialer.reach(uri, proxy.as_ref()))??;
        // Some servers wait for the end of a line before they reject unknown input.
        match self.wait(connect.min(PATIENCE_WITH_TLS), &doing, dialer.secure(uri, tls, stream)) {
            Ok(Ok(Ok(secured))) => {
                let sender = self.wait(connect, &doing, shake_hands(TokioIo::new(secured)))??;
                self.idle.insert(Route::to(uri, tls), sender);
                Ok(true)
            }
            Ok(Ok(Err(error))) if tls::is_spoken(&error) => Err(tls::explain(error)),
            Ok(Err(error)) => Err(error),
            Ok(Ok(Err(_))) | Err(_) => Ok(false),
        }
    }

    /// The proxy for `uri`. Like Go, none is used for this machine itself.
    fn proxy(&self, uri: &Uri) -> Option<Intercept> {
        self.dialer.proxies.intercept(uri).filter(|_| !is_loopback(authority(uri)))
    }

    fn exchange(
        &self,
        mut sender: Sender,
        request: &Request,
        proxy: Option<&Intercept>,
        route: &Route,
    ) -> Result<Response> {
        let built = request.build(proxy.filter(|_| !route.secure))?;
        let exchange = async {
            sender.ready().await?;
            sender.send_request(built).await
        };
        let doing = format!("wait for {} to answer", route.authority);
        let (head, body) =
            self.wait(self.dialer.timing.progress, &doing, exchange)?.map_err(lost)?.into_parts();
        Ok(Response { status: head.status, headers: head.headers, body, route: route.clone(), sender })
    }

    /// The next bytes of the body; `None` at its end.
    pub(super) fn next(&self, answer: &mut Response) -> Result<Option<Bytes>> {
        loop {
            let frame =
                self.wait(self.dialer.timing.progress, "read from the registry", answer.body.frame())?;
            match frame.transpose().map_err(lost)?.map(hyper::body::Frame::into_data) {
                None => return Ok(None),
                Some(Ok(bytes)) if !bytes.is_empty() => {
                    self.dialer.cancel.has_progress();
                    return Ok(Some(bytes));
                }
                // Trailers.
                Some(_) => {}
            }
        }
    }

    /// Keeps the connection of a response that was read to its end; another one is closed.
    pub(super) fn keep(&mut self, answer: Response) {
        if answer.body.is_end_stream() {
            self.idle.insert(answer.route, answer.sender);
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.idle.clear();
        if let Some(runtime) = self.runtime.take() {
            // A name lookup that hangs must not block the caller.
            runtime.shutdown_background();
        }
    }
}

impl Request {
    /// The request in the form for the registry itself, or for a proxy that forwards it.
    fn build(&self, proxy: Option<&Intercept>) -> Result<hyper::Request<Full<Bytes>>> {
        let uri = match proxy {
            Some(_) => self.uri.clone(),
            None => self.uri.path_and_query().map_or_else(Uri::default, |path| path.clone().into()),
        };
        let mut request = hyper::Request::new(Full::new(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        *request.headers_mut() = self.headers.clone();
        let host = authority(&self.uri);
        let host = HeaderValue::from_str(host)
            .map_err(|error| Error::invalid(format!("{host:?} is no host")).because(error))?;
        request.headers_mut().insert(HOST, host);
        if let Some(auth) = proxy.and_then(Intercept::basic_auth) {
            request.headers_mut().insert(PROXY_AUTHORIZATION, auth.clone());
        }
        Ok(request)
    }
}
