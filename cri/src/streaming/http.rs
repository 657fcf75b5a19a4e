//! The HTTP server: finds what a URL was made for, agrees on a protocol, and hands the connection over to the session.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::header::{SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::OwnedSemaphorePermit;

use super::exec::Wanted;
use super::tokens::Prepared;
use super::websocket::Subprotocol;
use super::wire::{self, Io};
use super::{Node, exec, port_forward};
use crate::backend::Backend;

/// How long a client may take to send the head of its request.
const HEAD: Duration = Duration::from_secs(30);

/// The limit of the request's head in bytes.
const HEAD_LIMIT: usize = 16 << 10;

const PROTOCOL_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_VERSIONS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// The protocols over SPDY for exec and attach, with their versions; the latest first.
const CHANNEL_PROTOCOLS: [(&str, u8); 4] =
    [("v4.channel.k8s.io", 4), ("v3.channel.k8s.io", 3), ("v2.channel.k8s.io", 2), ("channel.k8s.io", 1)];

const PORT_FORWARD_PROTOCOL: &str = "portforward.k8s.io";

/// SPDY with [`PORT_FORWARD_PROTOCOL`] in WebSocket messages.
const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";

/// The subprotocols of WebSocket for exec and attach; the latest first.
const SUBPROTOCOLS: [(&str, Subprotocol); 5] = [
    ("v5.channel.k8s.io", Subprotocol { version: 5, base64: false }),
    ("v4.channel.k8s.io", Subprotocol { version: 4, base64: false }),
    ("v4.base64.channel.k8s.io", Subprotocol { version: 4, base64: true }),
    ("channel.k8s.io", Subprotocol { version: 1, base64: false }),
    ("base64.channel.k8s.io", Subprotocol { version: 1, base64: true }),
];

/// The protocol of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    /// Exec or attach over SPDY, in this version.
    Spdy(u8),
    /// Exec or attach over WebSocket.
    WebSocket(Subprotocol),
    /// Port-forward over SPDY.
    PortForward,
    /// The same in WebSocket messages.
    Tunnel,
}

/// A response with this status and text.
#[derive(Debug)]
struct Refusal(StatusCode, String, Vec<(HeaderName, &'static str)>);

impl Refusal {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self(status, text.into(), Vec::new())
    }
}

/// Serves one connection, and the session that comes out of it, which keeps `slot` until its end.
pub(super) async fn serve<B: Backend>(node: Arc<Node<B>>, io: Io, slot: OwnedSemaphorePermit) {
    let slot = Arc::new(slot);
    let service = service_fn(move |request: Request<Incoming>| {
        let response = respond(&node, request, &slot);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEAD).max_buf_size(HEAD_LIMIT);
    // Errors of a connection are not logged: the client is gone, or does not speak HTTP.
    let _ = http.serve_connection(TokioIo::new(io), service).with_upgrades().await;
}

fn respond<B: Backend>(
    node: &Arc<Node<B>>,
    mut request: Request<Incoming>,
    slot: &Arc<OwnedSemaphorePermit>,
) -> Response<Full<Bytes>> {
    match upgrade(node, &mut request, slot) {
        Ok(headers) => {
            let mut response = Response::new(Full::default());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = headers;
            response
        }
        Err(Refusal(status, text, headers)) => {
            let mut response = Response::new(Full::from(text + "\n"));
            *response.status_mut() = status;
            for (name, value) in headers {
                response.headers_mut().append(name, HeaderValue::from_static(value));
            }
            response
        }
    }
}

/// Starts the session that a request asks for; returns the headers of the response.
fn upgrade<B: Backend>(
    node: &Arc<Node<B>>,
    request: &mut Request<Incoming>,
    slot: &Arc<OwnedSemaphorePermit>,
) -> Result<HeaderMap, Refusal> {
    let unknown = || Refusal::new(StatusCode::NOT_FOUND, "no such session: its URL works once, for a minute");
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST are allowed"));
    }
    let path = request.uri().path().to_owned();
    let is_port_forward = node.tokens.kind(&path).ok_or_else(unknown)? == "portforward";
    let (protocol, headers) = negotiate(request.headers(), is_port_forward)?;
    let prepared = node.tokens.take(&path, Instant::now()).ok_or_else(unknown)?;
    let session = run(Arc::clone(node), prepared, protocol, hyper::upgrade::on(request));
    let slot = Arc::clone(slot);
    tokio::spawn(async move {
        session.await;
        drop(slot);
    });
    Ok(headers)
}

/// Runs a session on a connection that is being upgraded.
async fn run<B: Backend>(node: Arc<Node<B>>, prepared: Prepared, protocol: Protocol, upgrade: OnUpgrade) {
    // The client has left, or the connection is another's: neither can be told to anyone.
    let Ok(upgraded) = upgrade.await else { return };
    let Ok(parts) = upgraded.downcast::<TokioIo<Io>>() else { return };
    let tunnel = protocol == Protocol::Tunnel;
    let Ok((source, sink)) = wire::split(parts.io.into_inner(), &parts.read_buf, tunnel) else { return };
    let wanted = match prepared {
        Prepared::Exec(request) => Wanted::Exec(request),
        Prepared::Attach(request) => Wanted::Attach(request),
        Prepared::PortForward(request) => {
            return port_forward::over_spdy(node, request.pod_sandbox_id, source, sink).await;
        }
    };
    match protocol {
        Protocol::Spdy(version) => exec::over_spdy(node, wanted, version, source, sink).await,
        Protocol::WebSocket(subprotocol) => {
            exec::over_websocket(node, wanted, subprotocol, source, sink).await;
        }
        Protocol::PortForward | Protocol::Tunnel => {}
    }
}

/// Chooses the protocol, and makes the headers that tell it.
fn negotiate(request: &HeaderMap, is_port_forward: bool) -> Result<(Protocol, HeaderMap), Refusal> {
    let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, text);
    let upgrade = list(request, UPGRADE);
    let wants = |name: &str| upgrade.iter().any(|known| known.eq_ignore_ascii_case(name));
    if !list(request, CONNECTION).iter().any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(bad("unable to upgrade: missing upgrade headers in request"));
    }
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let protocol = if wants("websocket") {
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        negotiate_websocket(request, is_port_forward, &mut headers)?
    } else if wants("SPDY/3.1") {
        headers.insert(UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        negotiate_spdy(request, is_port_forward, &mut headers)?
    } else {
        return Err(bad("unable to upgrade: only SPDY/3.1 and websocket are supported"));
    };
    Ok((protocol, headers))
}

fn negotiate_spdy(
    request: &HeaderMap,
    is_port_forward: bool,
    response: &mut HeaderMap,
) -> Result<Protocol, Refusal> {
    let offered = list(request, PROTOCOL_VERSION);
    if offered.is_empty() {
        let text = "unable to upgrade: X-Stream-Protocol-Version is required";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, text));
    }
    let supported: Vec<(&'static str, Protocol)> = match is_port_forward {
        true => vec![(PORT_FORWARD_PROTOCOL, Protocol::PortForward)],
        false => CHANNEL_PROTOCOLS.iter().map(|(name, version)| (*name, Protocol::Spdy(*version))).collect(),
    };
    let chosen = offered.iter().find_map(|offer| supported.iter().find(|(name, _)| name == offer));
    let Some((name, protocol)) = chosen else {
        let names: Vec<_> = supported.iter().map(|(name, _)| *name).collect();
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {names:?}"
        );
        let mut refusal = Refusal::new(StatusCode::FORBIDDEN, text);
        for name in names {
            refusal.2.push((ACCEPTED_VERSIONS, name));
        }
        return Err(refusal);
    };
    response.insert(PROTOCOL_VERSION, HeaderValue::from_static(name));
    Ok(*protocol)
}

fn negotiate_websocket(
    request: &HeaderMap,
    is_port_forward: bool,
    response: &mut HeaderMap,
) -> Result<Protocol, Refusal> {
    let bad = |text: &str| Refusal::new(StatusCode::BAD_REQUEST, text);
    if request.get(SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut refusal =
            Refusal::new(StatusCode::UPGRADE_REQUIRED, "only version 13 of WebSocket is supported");
        refusal.2.push((SEC_WEBSOCKET_VERSION, "13"));
        return Err(refusal);
    }
    let key = request.get(SEC_WEBSOCKET_KEY).ok_or_else(|| bad("Sec-WebSocket-Key is missing"))?;
    let accept =
        HeaderValue::try_from(accept_key(key.as_bytes())).map_err(|_| bad("a bad Sec-WebSocket-Key"))?;
    response.insert(SEC_WEBSOCKET_ACCEPT, accept);
    let offered = list(request, SEC_WEBSOCKET_PROTOCOL);
    let supported: Vec<(&'static str, Protocol)> = match is_port_forward {
        true => vec![(TUNNEL_PROTOCOL, Protocol::Tunnel)],
        false => SUBPROTOCOLS.iter().map(|(name, kind)| (*name, Protocol::WebSocket(*kind))).collect(),
    };
    if offered.is_empty() && !is_port_forward {
        return Ok(Protocol::WebSocket(Subprotocol { version: 1, base64: false }));
    }
    let chosen = offered.iter().find_map(|offer| supported.iter().find(|(name, _)| name == offer));
    let Some((name, protocol)) = chosen else {
        let names: Vec<_> = supported.iter().map(|(name, _)| *name).collect();
        let text = format!("none of the subprotocols {offered:?} is supported, but {names:?}");
        return Err(Refusal::new(StatusCode::FORBIDDEN, text));
    };
    response.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    Ok(*protocol)
}

/// The answer to a client's key: RFC 6455, section 4.2.2.
fn accept_key(key: &[u8]) -> String {
    let mut hash = ring::digest::Context::new(&ring::digest::SHA1_FOR_LEGACY_USE_ONLY);
    hash.update(key);
    hash.update(b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(hash.finish())
}

/// The elements of a header that may be given as a list, or several times.
fn list(headers: &HeaderMap, name: HeaderName) -> Vec<&str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|element| !element.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_clients_first_choice_that_is_known_is_taken() {
        let spdy = |versions: &'static str| {
            let request = [("connection", "Upgrade"), ("upgrade", "SPDY/3.1")];
            let mut request = headers(&request);
            request.append(PROTOCOL_VERSION, HeaderValue::from_static(versions));
            request
        };
        let (protocol, told) = negotiate(&spdy("v9.channel.k8s.io, v4.channel.k8s.io"), false).unwrap();
        assert_eq!(
            (protocol, &told[PROTOCOL_VERSION]),
            (Protocol::Spdy(4), &"v4.channel.k8s.io".parse().unwrap())
        );
        assert_eq!(negotiate(&spdy("channel.k8s.io"), false).unwrap().0, Protocol::Spdy(1));
        assert_eq!(negotiate(&spdy("portforward.k8s.io"), true).unwrap().0, Protocol::PortForward);
        let refusal = negotiate(&spdy("v9.channel.k8s.io"), false).unwrap_err();
        assert_eq!((refusal.0, refusal.2.len()), (StatusCode::FORBIDDEN, 4));
    }

    #[test]
    fn what_is_no_upgrade_is_refused() {
        let refused =
            |pairs: &[(&'static str, &'static str)]| negotiate(&headers(pairs), false).unwrap_err().0;
        assert_eq!(refused(&[]), StatusCode::BAD_REQUEST);
        assert_eq!(refused(&[("upgrade", "SPDY/3.1")]), StatusCode::BAD_REQUEST);
        assert_eq!(refused(&[("connection", "upgrade"), ("upgrade", "SPDY/3.1")]), StatusCode::BAD_REQUEST);
        assert_eq!(refused(&[("connection", "upgrade"), ("upgrade", "h2c")]), StatusCode::BAD_REQUEST);
        let websocket = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert_eq!(refused(&websocket), StatusCode::UPGRADE_REQUIRED);
    }

    /// The example of RFC 6455, section 1.3.
    #[test]
    fn websocket_keys_are_answered() {
        let request = headers(&[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "chat, v5.channel.k8s.io"),
        ]);
        let (protocol, told) = negotiate(&request, false).unwrap();
        assert_eq!(protocol, Protocol::WebSocket(Subprotocol { version: 5, base64: false }));
        assert_eq!(told[SEC_WEBSOCKET_ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(told[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        assert_eq!(negotiate(&request, true).unwrap_err().0, StatusCode::FORBIDDEN);
    }
}
