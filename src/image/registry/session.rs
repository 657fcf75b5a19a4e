//! A session with the endpoints of a repository: authentication, redirects, and errors.
//!
//! Credentials are sent only to the host they are for: not along a redirect to another host, which is asked for a token of
//! its own instead, not over plain HTTP after TLS, not to the URL of a foreign layer (CVE-2020-15157).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
    USER_AGENT, WWW_AUTHENTICATE,
};
use hyper::{Method, StatusCode, Uri};
use serde::Deserialize;

use super::RegistryOptions;
use super::auth::{self, Known};
use super::challenge::{self, Challenge};
use super::credentials;
use super::endpoint::{Endpoint, Tls};
use super::fault::{Fault, Retry, retry_after, retry_of};
use super::login::Login;
use super::redirect::Elsewhere;
use super::url;
use super::wire::{Dialer, Request, Response, Wire};
use crate::error::{Error, Kind, Result};

const AGENT: &str = concat!("coracle/", env!("CARGO_PKG_VERSION"));
const MOST_REDIRECTS: usize = 10;
/// The most challenges that one request, with its redirects, answers.
const MOST_CHALLENGES: usize = 6;
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
    /// The hosts, with their ports, that have answered a request, with whatever.
    answered: Mutex<BTreeSet<String>>,
}

impl<'a> Session<'a> {
    pub(super) fn new(options: &'a RegistryOptions) -> Self {
        Self {
            options,
            dialer: Arc::new(Dialer::new(options.timing, options.cancel.clone())),
            spare: Mutex::default(),
            known: Mutex::default(),
            speak_tls: Mutex::default(),
            answered: Mutex::default(),
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
        let mut challenged: Vec<String> = Vec::new();
        loop {
            let (answer, at) = self.follow(wire, endpoint, what, ask)?;
            let at_home = at.is_none();
            if answer.status != StatusCode::UNAUTHORIZED || challenged.len() == MOST_CHALLENGES {
                return judge(wire, answer, at_home);
            }
            let host = at.as_ref().map_or_else(|| key(endpoint), |at| at.key(endpoint));
            // A token may have been used up or replaced meanwhile by another layer's transfer: it is asked for twice. A
            // password is not tried twice, since a registry may lock the account.
            let times = challenged.iter().filter(|known| **known == host).count();
            if times > usize::from(self.has_token(&host)) {
                return judge(wire, answer, at_home);
            }
            let offered = challenges(&answer);
            let refusal = judge(wire, answer, at_home);
            self.forget(&host);
            match self.authenticate(wire, endpoint, at.as_ref(), &offered)? {
                Some(known) => self.remember(host.clone(), known),
                // It says what it wants, which asking again does not change.
                None if !offered.is_empty() => {
                    return refusal.map_err(|fault| Fault { retry: Retry::Never, ..fault });
                }
                None => return refusal,
            }
            challenged.push(host);
        }
    }

    /// Credentials for `endpoint`, or for the host `at` that it redirected to.
    fn authenticate(
        &self,
        wire: &mut Wire,
        endpoint: &Endpoint,
        at: Option<&Elsewhere>,
        offered: &[Challenge],
    ) -> Result<Option<Known>, Fault> {
        match at {
            None => auth::answer(self, wire, endpoint, self.login(endpoint)?.as_ref(), offered),
            Some(at) => {
                let login = at.login(self.options)?;
                auth::answer(self, wire, &at.endpoint, login.as_ref(), offered)
            }
        }
    }

    /// The endpoint with the scheme that it supports.
    fn as_spoken(&self, wire: &mut Wire, endpoint: &Endpoint) -> Result<Endpoint, Fault> {
        let tls_first = endpoint.tls_first();
        let endpoint = tls_first.as_ref().unwrap_or(endpoint);
        if !endpoint.or_plain {
            return Ok(endpoint.clone());
        }
        let lock = || self.speak_tls.lock().unwrap_or_else(PoisonError::into_inner);
        let known = lock().get(&endpoint.base.authority).copied();
        let speaks_tls = match known {
            Some(known) => known,
            None => {
                let uri = url::parse(&endpoint.url(""))?;
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
        let uri = url::parse(url)?;
        let (answer, _) = self.chase(wire, uri, ask, &Ours::default())?;
        judge(wire, answer, false)
    }

    fn note_answer(&self, uri: &Uri) {
        let authority = uri.authority().map_or("", |authority| authority.as_str()).to_ascii_lowercase();
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).insert(authority);
    }

    /// Returns whether the host of a URL has answered any request yet.
    pub(super) fn has_answered(&self, url: &str) -> bool {
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or(rest).to_ascii_lowercase();
        self.answered.lock().unwrap_or_else(PoisonError::into_inner).contains(&authority)
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
    ) -> Result<(Response, Option<Elsewhere>), Fault> {
        let mut own = HeaderMap::new();
        for (name, value) in &endpoint.headers {
            let name = HeaderName::from_bytes(name.as_bytes());
            let pair = name.ok().zip(HeaderValue::from_str(value).ok());
            let (name, value) =
                pair.ok_or_else(|| Error::invalid("a configured header is not a valid HTTP header"))?;
            own.append(name, value);
        }
        if let Some(value) = self.authorization(&key(endpoint)) {
            own.insert(AUTHORIZATION, secret(&value)?);
        }
        let ours = Ours { home: Some(endpoint), headers: own };
        let uri = url::parse(&endpoint.url(what))?;
        self.chase(wire, uri, ask, &ours)
            .map_err(|fault| fault.doing(format!("ask {}", endpoint.base.authority)))
    }

    /// Sends a request and follows redirects. Also returns the host that answered in the end, if it is not the first one.
    fn chase(
        &self,
        wire: &mut Wire,
        first: Uri,
        ask: &Ask,
        ours: &Ours<'_>,
    ) -> Result<(Response, Option<Elsewhere>), Fault> {
        let mut uri = first.clone();
        for _ in 0..=MOST_REDIRECTS {
            let at_home = url::is_at_home(&first, &uri);
            let elsewhere =
                ours.home.filter(|_| !at_home).map(|home| Elsewhere::of(&uri, home, ours.tls(false)));
            let mut headers = headers_of(ask);
            if at_home {
                headers.extend(ours.headers.clone());
            }
            let token =
                elsewhere.as_ref().zip(ours.home).and_then(|(at, home)| self.authorization(&at.key(home)));
            if let Some(value) = token {
                headers.insert(AUTHORIZATION, secret(&value)?);
            }
            let request =
                Request { method: ask.method.clone(), uri: uri.clone(), headers, body: Bytes::new() };
            let connect = ours.home.and_then(|home| home.connect).unwrap_or(self.options.timing.connect);
            let answer = wire.send(&request, &ours.tls(at_home), connect)?;
            self.note_answer(&uri);
            if !matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok((answer, elsewhere));
            }
            let location = answer.headers.get(LOCATION).map(HeaderValue::as_bytes);
            let next = url::resolve(&uri, location.unwrap_or_default())?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") && !ask.is_verified {
                let doing = format!("a redirect leads from TLS to plain HTTP, to {}", url::shown(&next));
                return Err(Error::new(Kind::Denied, doing).into());
            }
            let is_inside =
                url::is_link_local(next.host().unwrap_or_default()) && next.host() != first.host();
            if is_inside {
                let doing = format!("a redirect leads to the link-local address {}", url::shown(&next));
                return Err(Error::new(Kind::Denied, doing).into());
            }
            uri = next;
        }
        let error = Error::new(Kind::Unreachable, format!("it redirects more than {MOST_REDIRECTS} times"));
        Err(Fault { error, retry: Retry::Never, is_answer: true })
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

    /// What the host with this key has accepted.
    fn authorization(&self, key: &str) -> Option<String> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(key).and_then(Known::header)
    }

    fn has_token(&self, key: &str) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(known.get(key), Some(Known::Token(..)))
    }

    fn remember(&self, key: String, what: Known) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(key, what);
    }

    fn forget(&self, key: &str) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
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

fn challenges(answer: &Response) -> Vec<Challenge> {
    let offered = answer.headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    offered.flat_map(challenge::parse).collect()
}

/// The key under which the credentials for an endpoint are known.
pub(super) fn key(endpoint: &Endpoint) -> String {
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
        408 | 429 | 500 | 502..=599 => (Kind::Unreachable, retry_of(asked)),
        416 => (Kind::Corrupt, Retry::Never),
        _ => (Kind::Unsupported, Retry::Never),
    };
    let mut error = Error::new(kind, text);
    if kind == Kind::Denied {
        error = error.hint("give a login with --creds or --authfile, or log in with podman or docker");
    }
    if let Some(hint) = busy(status, asked) {
        error = error.hint(hint);
    }
    Err(Fault { error, retry, is_answer: true })
}

/// The hint for a response that asks for patience.
pub(super) fn busy(status: StatusCode, asked: Option<Duration>) -> Option<String> {
    let pause = asked.map(|asked| format!("it requires a wait of {} s (Retry-After)", asked.as_secs()));
    let limit = (status == StatusCode::TOO_MANY_REQUESTS)
        .then(|| "the registry limits the rate of requests; a login may raise the limit".to_owned());
    match (limit, pause) {
        (Some(limit), Some(pause)) => Some(format!("{limit}; {pause}")),
        (limit, pause) => limit.or_else(|| pause.filter(|_| status.is_server_error())),
    }
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
