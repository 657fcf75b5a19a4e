//! A session with the endpoints of a repository: authentication, redirects, and errors.
//!
//! Credentials are sent only to the endpoint they are for: not along a redirect to another host, not over plain HTTP
//! after TLS, not to the URL of a foreign layer (CVE-2020-15157).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
    USER_AGENT, WWW_AUTHENTICATE,
};
use hyper::{Method, StatusCode, Uri};
use serde::Deserialize;

use super::RegistryOptions;
use super::auth::{self, Known};
use super::challenge;
use super::credentials;
use super::endpoint::{Endpoint, Tls};
use super::fault::{Fault, Retry, retry_after};
use super::login::Login;
use super::wire::{Dialer, Request, Response, Wire};
use crate::error::{Error, Kind, Result};

const AGENT: &str = concat!("coracle/", env!("CARGO_PKG_VERSION"));
const MOST_REDIRECTS: usize = 10;
/// The most bytes of an error response that are read.
const MAX_ERROR_BODY: usize = 16 << 10;

/// The parameters of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Ask {
    pub(super) method: Method,
    /// The media types to accept.
    pub(super) accept: Option<&'static str>,
    /// The first byte to request.
    pub(super) from: u64,
    /// The response is verified by a digest, so its server need not be trusted.
    pub(super) is_verified: bool,
}

/// Connections, credentials and knowledge about hosts, shared by all requests of a pull.
pub(super) struct Session<'a> {
    pub(super) options: &'a RegistryOptions,
    dialer: Arc<Dialer>,
    spare: Mutex<Vec<Wire>>,
    known: Mutex<HashMap<String, Known>>,
    /// Whether a host that may use plain HTTP supports TLS.
    speak_tls: Mutex<HashMap<String, bool>>,
}

impl<'a> Session<'a> {
    pub(super) fn new(options: &'a RegistryOptions) -> Self {
        Self {
            options,
            dialer: Arc::new(Dialer::new(options.timing, options.cancel.clone())),
            spare: Mutex::default(),
            known: Mutex::default(),
            speak_tls: Mutex::default(),
        }
    }

    /// Connections for the calling thread.
    pub(super) fn wire(&self) -> Result<Wire> {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        spare.map_or_else(|| Wire::new(Arc::clone(&self.dialer)), Ok)
    }

    /// Returns connections for reuse.
    pub(super) fn put_back(&self, wire: Wire) {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(wire);
    }

    /// Requests `what` from `endpoint` and authenticates if the registry requires it. Only a successful response is
    /// returned.
    pub(super) fn ask(
        &self,
        wire: &mut Wire,
        endpoint: &Endpoint,
        what: &str,
        ask: &Ask,
    ) -> Result<Response, Fault> {
        let endpoint = &self.as_spoken(wire, endpoint)?;
        let (answer, at_home) = self.follow(wire, endpoint, what, ask)?;
        if answer.status != StatusCode::UNAUTHORIZED || !at_home {
            return judge(wire, answer, at_home);
        }
        let offered = answer.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let offered: Vec<_> = offered.flat_map(challenge::parse).collect();
        let refusal = judge(wire, answer, true);
        self.forget(endpoint);
        match auth::answer(self, wire, endpoint, &offered)? {
            Some(known) => self.remember(endpoint, known),
            None => return refusal,
        }
        let (answer, at_home) = self.follow(wire, endpoint, what, ask)?;
        judge(wire, answer, at_home)
    }

    /// The endpoint with the scheme that it supports.
    fn as_spoken(&self, wire: &mut Wire, endpoint: &Endpoint) -> Result<Endpoint, Fault> {
        if !endpoint.or_plain {
            return Ok(endpoint.clone());
        }
        let lock = || self.speak_tls.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&endpoint.base.authority).copied();
        let speaks_tls = match known {
            Some(known) => known,
            None => {
                let uri = parse_uri(&endpoint.url(""))?;
                let connect = endpoint.connect.unwrap_or(self.options.timing.connect);
                let found = wire.speaks_tls(&uri, &endpoint.tls, connect)?;
                lock().insert(endpoint.base.authority.clone(), found);
                found
            }
        };
        Ok(if speaks_tls { endpoint.clone() } else { endpoint.plain() })
    }

    /// Requests a URL outside all endpoints, without any credentials.
    pub(super) fn ask_foreign(&self, wire: &mut Wire, url: &str, ask: &Ask) -> Result<Response, Fault> {
        let uri = parse_uri(url)?;
        let (answer, _) = self.chase(wire, uri, ask, &Ours::default())?;
        judge(wire, answer, false)
    }

    /// Sends one request unchanged, for example to a token server.
    pub(super) fn send(&self, wire: &mut Wire, request: &Request, tls: &Tls) -> Result<Response, Fault> {
        Ok(wire.send(request, tls, self.options.timing.connect)?)
    }

    fn follow(
        &self,
        wire: &mut Wire,
        endpoint: &Endpoint,
        what: &str,
        ask: &Ask,
    ) -> Result<(Response, bool), Fault> {
        let mut own = HeaderMap::new();
        for (name, value) in &endpoint.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let pair = name.ok().zip(HeaderValue::from_str(value).ok());
            let (name, value) =
                pair.ok_or_else(|| Error::invalid("a configured header is not a valid HTTP header"))?;
            own.append(name, value);
        }
        if let Some(value) = self.authorization(endpoint)? {
            own.insert(AUTHORIZATION, secret(&value)?);
        }
        let ours = Ours { home: Some(endpoint), headers: own };
        let uri = parse_uri(&endpoint.url(what))?;
        self.chase(wire, uri, ask, &ours)
            .map_err(|fault| fault.doing(format!("ask {}", endpoint.base.authority)))
    }

    /// Sends a request and follows redirects. Also returns whether the response is from the original host.
    fn chase(
        &self,
        wire: &mut Wire,
        first: Uri,
        ask: &Ask,
        ours: &Ours<'_>,
    ) -> Result<(Response, bool), Fault> {
        let mut uri = first.clone();
        for _ in 0..=MOST_REDIRECTS {
            let at_home = is_same_host(&uri, &first);
            let mut headers = headers_of(ask);
            if at_home {
                headers.extend(ours.headers.clone());
            }
            let request =
                Request { method: ask.method.clone(), uri: uri.clone(), headers, body: Bytes::new() };
            let connect = ours.home.and_then(|home| home.connect).unwrap_or(self.options.timing.connect);
            let answer = wire.send(&request, &ours.tls(at_home), connect)?;
            if !answer.status.is_redirection() || answer.status == StatusCode::NOT_MODIFIED {
                return Ok((answer, at_home));
            }
            let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
            let next = join(&uri, location.unwrap_or_default())?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") && !ask.is_verified {
                let doing = format!("a redirect leads from TLS to plain HTTP, to {}", shown(&next));
                return Err(Error::new(Kind::Denied, doing).into());
            }
            uri = next;
        }
        let error = Error::new(Kind::Unreachable, format!("it redirects more than {MOST_REDIRECTS} times"));
        Err(Fault { error, retry: Retry::Never })
    }

    /// The login for `endpoint`, if one is configured.
    pub(super) fn login(&self, endpoint: &Endpoint) -> Result<Option<Login>> {
        if let Some(login) = self.options.login.as_ref().filter(|_| endpoint.is_own) {
            return Ok(Some(login.clone()));
        }
        if let Some(login) = &endpoint.login {
            return Ok(Some(login.clone()));
        }
        credentials::find(self.options.auth_file.as_deref(), &endpoint.base.authority, &endpoint.repository)
    }

    fn authorization(&self, endpoint: &Endpoint) -> Result<Option<String>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(known.get(&key(endpoint)).and_then(Known::header))
    }

    fn remember(&self, endpoint: &Endpoint, what: Known) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key(endpoint), what);
    }

    fn forget(&self, endpoint: &Endpoint) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(endpoint));
    }
}

/// The credentials that a request may use, and for which host.
#[derive(Default)]
struct Ours<'a> {
    home: Option<&'a Endpoint>,
    headers: HeaderMap,
}

impl Ours<'_> {
    /// Another host may be run by the same people with the same authority, but it must not see our client certificate.
    fn tls(&self, at_home: bool) -> Tls {
        let Some(home) = self.home else { return Tls::default() };
        Tls { client: home.tls.client.clone().filter(|_| at_home), ..home.tls.clone() }
    }
}

fn key(endpoint: &Endpoint) -> String {
    endpoint.url("")
}

fn headers_of(ask: &Ask) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    // No compression: digests and ranges refer to the stored bytes.
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(ACCEPT, HeaderValue::from_static(ask.accept.unwrap_or("*/*")));
    if ask.from > 0
        && let Ok(value) = HeaderValue::from_str(&format!("bytes={}-", ask.from))
    {
        headers.insert(RANGE, value);
    }
    headers
}

/// A header that must not be logged.
pub(super) fn secret(value: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(value)
        .map_err(|_| Error::invalid("a login has characters that HTTP cannot carry"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Parses an absolute http or https URL.
pub(super) fn parse_uri(text: &str) -> Result<Uri> {
    let uri: Option<Uri> = text.parse().ok();
    let is_web = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    let is_plain = |uri: &Uri| uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    uri.filter(|uri| is_web(uri) && is_plain(uri)).ok_or_else(|| {
        let short: String = text.chars().take(200).collect();
        Error::invalid(format!("{short:?} is not an http or https address"))
    })
}

/// Resolves `location` against `base`.
fn join(base: &Uri, location: &str) -> Result<Uri> {
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    let whole = if location.contains("://") {
        location.to_owned()
    } else if let Some(rest) = location.strip_prefix("//") {
        format!("{scheme}://{rest}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = base.path().rfind('/').map_or("/", |at| &base.path()[..=at]);
        format!("{scheme}://{authority}{folder}{location}")
    };
    parse_uri(whole.split('#').next().unwrap_or_default()).map_err(|e| e.doing("follow a redirect"))
}

fn is_same_host(a: &Uri, b: &Uri) -> bool {
    let lower = |uri: &Uri| uri.authority().map(|authority| authority.as_str().to_ascii_lowercase());
    a.scheme_str() == b.scheme_str() && lower(a) == lower(b)
}

/// A URL without its query, which may contain a signature.
fn shown(uri: &Uri) -> String {
    format!(
        "{}://{}{}",
        uri.scheme_str().unwrap_or(""),
        uri.authority().map_or("", |a| a.as_str()),
        uri.path()
    )
}

#[derive(Deserialize)]
struct Words {
    #[serde(default)]
    errors: Vec<Word>,
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Word {
    code: String,
    message: String,
}

/// Returns a successful response; converts any other to an error.
fn judge(wire: &mut Wire, mut answer: Response, at_home: bool) -> Result<Response, Fault> {
    if answer.status.is_success() {
        return Ok(answer);
    }
    let status = answer.status;
    let asked = answer.headers.get(RETRY_AFTER).and_then(|value| retry_after(value.to_str().ok()?));
    let words = words_of(wire, &mut answer);
    wire.keep(answer);
    let text = if words.is_empty() { status.to_string() } else { format!("{status}: {words}") };
    let text = format!("it answers {text}");
    let (kind, retry) = match status.as_u16() {
        404 | 410 => (Kind::NotFound, Retry::Never),
        // A storage server behind the registry returns this when a signed URL has expired.
        401 | 403 if !at_home => (Kind::Denied, Retry::Backoff),
        401 | 403 => (Kind::Denied, Retry::Never),
        408 | 429 | 500 | 502..=599 => (Kind::Unreachable, asked.map_or(Retry::Backoff, Retry::After)),
        416 => (Kind::Corrupt, Retry::Never),
        _ => (Kind::Unsupported, Retry::Never),
    };
    let mut error = Error::new(kind, text);
    if kind == Kind::Denied {
        error = error.hint("give a login with --creds or --authfile, or log in with podman or docker");
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        error = error.hint("the registry limits the rate of requests; a login may raise the limit");
    }
    Err(Fault { error, retry })
}

/// The registry's own error message (SPEC(distribution 1.1 #error-codes)), made safe to print.
fn words_of(wire: &Wire, answer: &mut Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(piece)) = wire.next(answer) {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_ERROR_BODY {
            return String::new();
        }
    }
    let Ok(words) = serde_json::from_slice::<Words>(&bytes) else { return String::new() };
    let one = |word: &Word| {
        let text = if word.message.is_empty() { &word.code } else { &word.message };
        text.chars().filter(|c| !c.is_control()).take(200).collect::<String>()
    };
    words.errors.iter().take(3).map(one).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved_against_their_origin() {
        let base = parse_uri("https://r.example/v2/a/blobs/x?y=1").unwrap();
        for (location, meant) in [
            ("https://cdn.example/z?sig=1#f", "https://cdn.example/z?sig=1"),
            ("//cdn.example/z", "https://cdn.example/z"),
            ("/z", "https://r.example/z"),
            ("z", "https://r.example/v2/a/blobs/z"),
        ] {
            assert_eq!(join(&base, location).unwrap().to_string(), meant);
        }
        for bad in ["ftp://x/", "https://u:p@x/", "file:///etc/passwd", "https://"] {
            assert!(join(&base, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_port_or_scheme_is_another_host() {
        let uri = |text: &str| parse_uri(text).unwrap();
        assert!(is_same_host(&uri("https://A.example/x"), &uri("https://a.example/y")));
        for other in ["http://a.example/", "https://a.example:444/", "https://b.a.example/"] {
            assert!(!is_same_host(&uri("https://a.example/"), &uri(other)), "{other}");
        }
    }
}
