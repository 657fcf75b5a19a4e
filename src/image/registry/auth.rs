//! Answers an authentication challenge: Basic, or a token by GET or by OAuth2's POST, refreshed before it expires.

use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;

use super::challenge::Challenge;
use super::endpoint::{Endpoint, Tls, host_of};
use super::fault::{Fault, Retry, retry_after, retry_of};
use super::login::Login;
use super::received::{media_type, not_json};
use super::session::{Session, busy, secret};
use super::url;
use super::wire::{Request, Wire};
use crate::error::{Error, Kind, Result};

/// The largest response of a token server that is read, in bytes.
const MAX_RESPONSE: usize = 1 << 20;
/// The life of a token without `expires_in`, in seconds (SPEC(distribution token) #token-response-fields).
const DEFAULT_LIFE: u64 = 60;
/// The longest life of a token that is believed, in seconds.
const MAX_LIFE: f64 = 24.0 * 3600.0;

/// Credentials that an endpoint has accepted.
#[derive(Clone)]
pub(super) enum Known {
    /// The same for every request.
    Basic(String),
    /// A token, with the time when it expires.
    Token(String, Instant),
}

impl Known {
    /// The value of the header, unless it has expired.
    pub(super) fn header(&self) -> Option<String> {
        match self {
            Self::Basic(value) => Some(value.clone()),
            Self::Token(token, until) => (Instant::now() < *until).then(|| format!("Bearer {token}")),
        }
    }
}

/// Finds credentials for one of the challenges of `endpoint`, by `login` or without one; `None` when there are none.
pub(super) fn answer(
    session: &Session<'_>,
    wire: &mut Wire,
    endpoint: &Endpoint,
    login: Option<&Login>,
    offered: &[Challenge],
) -> Result<Option<Known>, Fault> {
    if let Some(Login::Bearer(token)) = login {
        let forever = Instant::now() + Duration::from_secs(365 * 24 * 3600);
        return Ok(Some(Known::Token(token.clone(), forever)));
    }
    for challenge in offered {
        match (challenge, login) {
            (Challenge::Bearer { realm, service, scope }, login) => {
                let asking = Asking { endpoint, realm, service: service.as_deref(), scope: scope.as_deref() };
                return asking.token(session, wire, login).map(Some);
            }
            (Challenge::Basic, Some(Login::Password { username, password })) => {
                return Ok(Some(Known::Basic(Login::basic(username, password))));
            }
            (Challenge::Basic, _) => {}
        }
    }
    Ok(None)
}

struct Asking<'a> {
    endpoint: &'a Endpoint,
    realm: &'a str,
    service: Option<&'a str>,
    scope: Option<&'a str>,
}

/// The response of a token server. Each field may be absent, null or odd without spoiling the others.
#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
struct Granted {
    token: Value,
    access_token: Value,
    expires_in: Value,
}

impl Granted {
    fn known(self) -> Result<Known> {
        let words = [&self.token, &self.access_token].into_iter().filter_map(Value::as_str);
        let token = words.map(str::to_owned).find(|token| !token.is_empty());
        let token = token.ok_or_else(|| Error::invalid("the response has no token"))?;
        let life = self.expires_in.as_f64().filter(|life| *life >= 1.0);
        let life = life.map_or(DEFAULT_LIFE, |life| life.min(MAX_LIFE) as u64);
        // Refresh after nine tenths of the life, to allow for the time on the network.
        Ok(Known::Token(token, Instant::now() + Duration::from_millis(life * 900)))
    }
}

impl Asking<'_> {
    fn token(&self, session: &Session<'_>, wire: &mut Wire, login: Option<&Login>) -> Result<Known, Fault> {
        self.check_realm(login)?;
        let requests = match login {
            Some(Login::Identity(token)) => {
                vec![self.post(&[("grant_type", "refresh_token"), ("refresh_token", token)])?]
            }
            Some(Login::Password { username, password }) => {
                let grant = [("grant_type", "password"), ("username", username), ("password", password)];
                vec![self.get(Some(Login::basic(username, password)))?, self.post(&grant)?]
            }
            Some(Login::Bearer(_)) | None => vec![self.get(None)?],
        };
        let last = requests.len() - 1;
        for (number, request) in requests.iter().enumerate() {
            let tls = Tls { client: None, ..self.endpoint.tls.clone() };
            let answer = session.send(wire, request, &tls);
            let granted = answer.and_then(|answer| read(wire, answer)).map_err(|fault| {
                let host = request.uri.authority().map_or("", |authority| authority.as_str());
                fault.doing(format!("get a token from {host}"))
            });
            match granted {
                // Some servers support only OAuth2.
                Err(fault) if number < last && fault.error.kind() == Kind::NotFound => {}
                other => return other,
            }
        }
        Err(Error::new(Kind::Bug, "no token was asked for").into())
    }

    /// A token server may be another host than the registry, but not any host: a login is sent only to the registry's
    /// own host, below it, or beside it below a common parent, as auth.docker.io is to registry-1.docker.io.
    fn check_realm(&self, login: Option<&Login>) -> Result<()> {
        let realm = url::parse(self.realm)
            .map_err(|e| e.doing("parse the address of the registry's token server"))?;
        let host = host_of(realm.authority().map_or("", |authority| authority.as_str())).to_ascii_lowercase();
        if self.endpoint.base.secure && realm.scheme_str() != Some("https") {
            let doing = format!("the registry uses TLS, but its token server {host} does not");
            return Err(Error::new(Kind::Denied, doing));
        }
        let registry = host_of(&self.endpoint.base.authority);
        // What the token server answers is sent to the registry: it must not make this client read a cloud's metadata.
        if url::is_link_local(&host) && registry != host {
            let doing = format!("the token server {host} of {registry} is a link-local address");
            return Err(Error::new(Kind::Denied, doing));
        }
        if login.is_some() && !are_related(registry, &host) {
            let doing = format!("the login for {registry} is not sent to its token server {host}");
            return Err(Error::new(Kind::Denied, doing)
                .hint("the token server must be under the registry's own domain"));
        }
        Ok(())
    }

    fn scope(&self) -> String {
        self.scope.map_or_else(|| format!("repository:{}:pull", self.endpoint.repository), str::to_owned)
    }

    fn get(&self, authorization: Option<String>) -> Result<Request> {
        let mut url = self.realm.to_owned();
        let scope = self.scope();
        for (key, value) in
            self.service.map(|s| ("service", s)).into_iter().chain([("scope", scope.as_str())])
        {
            url.push(if url.contains('?') { '&' } else { '?' });
            url.push_str(&pair(key, value));
        }
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(AUTHORIZATION, secret(&value)?);
        }
        Ok(Request { method: Method::GET, uri: url::parse(&url)?, headers, body: Bytes::new() })
    }

    fn post(&self, grant: &[(&str, &str)]) -> Result<Request> {
        let scope = self.scope();
        let service = self.service.unwrap_or_default();
        let always = [("client_id", "coracle"), ("service", service), ("scope", scope.as_str())];
        let pairs = grant.iter().chain(&always).map(|(key, value)| pair(key, value));
        let body = pairs.collect::<Vec<_>>().join("&");
        let form = HeaderValue::from_static("application/x-www-form-urlencoded");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, form)]);
        Ok(Request { method: Method::POST, uri: url::parse(self.realm)?, headers, body: body.into() })
    }
}

fn pair(key: &str, value: &str) -> String {
    format!("{key}={}", utf8_percent_encode(value, NON_ALPHANUMERIC))
}

/// Returns whether two hosts are the same, one below the other, or both below a domain of at least two labels.
fn are_related(registry: &str, realm: &str) -> bool {
    let is_address = |host: &str| host.parse::<std::net::IpAddr>().is_ok();
    let is_below = |host: &str, domain: &str| {
        domain.contains('.')
            && (host == domain || host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.')))
    };
    if registry == realm {
        return true;
    }
    if is_address(registry) || is_address(realm) {
        return false;
    }
    let parent = registry.split_once('.').map_or("", |(_, parent)| parent);
    is_below(realm, registry) || is_below(realm, parent)
}

fn read(wire: &mut Wire, mut answer: super::wire::Response) -> Result<Known, Fault> {
    let status = answer.status;
    let mut bytes = Vec::new();
    while let Some(piece) = wire.next(&mut answer)? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_RESPONSE {
            return Err(Error::invalid(format!("the response has more than {MAX_RESPONSE} bytes")).into());
        }
    }
    let media_type = media_type(&answer);
    let asked = answer.headers.get("retry-after").and_then(|value| retry_after(value.to_str().ok()?));
    wire.keep(answer);
    if !status.is_success() {
        let doing = format!("it answers {status}");
        let (kind, retry) = match status {
            StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => (Kind::NotFound, Retry::Never),
            StatusCode::TOO_MANY_REQUESTS => (Kind::Unreachable, retry_of(asked)),
            status if status.is_server_error() => (Kind::Unreachable, retry_of(asked)),
            _ => (Kind::Denied, Retry::Never),
        };
        let mut error = Error::new(kind, doing);
        if kind == Kind::Denied {
            error = error.hint("check the login: --creds or --authfile");
        }
        if let Some(hint) = busy(status, asked) {
            error = error.hint(hint);
        }
        return Err(Fault { error, retry, is_answer: true });
    }
    match serde_json::from_slice::<Granted>(&bytes) {
        Ok(granted) => Ok(granted.known()?),
        Err(_) => Err(not_json(&bytes, media_type.as_deref(), "a token")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_realm_of_another_domain_is_refused_before_a_login_is_sent() {
        let base = super::super::endpoint::Base::parse("https://registry.example.com").unwrap();
        let endpoint = Endpoint::at(base, "app", true);
        let login = Login::Password { username: "user".into(), password: "secret".into() };
        let refused = |realm: &str| {
            let asking = Asking {
                endpoint: &endpoint,
                realm,
                service: Some("x&y=\r\nz"),
                scope: Some("repository:a b:*"),
            };
            let checked = asking.check_realm(Some(&login));
            if checked.is_ok() {
                // Whatever service and scope contain, each stays one value.
                let uri = asking.get(None).unwrap().uri.to_string();
                assert!(!uri.contains(['\r', '\n', ' ']) && uri.matches('&').count() == 1, "{uri}");
            }
            checked.is_err()
        };
        for bad in [
            "http://registry.example.com/token",
            "https://evil.org/token",
            "https://registry.example.com@evil.org/token",
            "https://user:pass@registry.example.com/token",
            "https://registry.example.com.evil.org/token",
            "https://evilregistry.example.org/token",
            "//registry.example.com/token",
            "/token",
            "file:///etc/passwd",
            "gopher://registry.example.com/",
            "",
        ] {
            assert!(refused(bad), "{bad}");
        }
        for good in [
            "https://registry.example.com/token",
            "https://auth.example.com/token",
            "https://REGISTRY.example.com:444/t",
        ] {
            assert!(!refused(good), "{good}");
        }
    }

    #[test]
    fn responses_of_token_servers_may_have_nulls_and_lives_of_nothing() {
        let header =
            |text: &str| serde_json::from_str::<Granted>(text).unwrap().known().map(|known| known.header());
        for text in [
            r#"{"token": "t"}"#,
            r#"{"access_token": "t", "token": null, "expires_in": null}"#,
            r#"{"access_token": "t", "token": "", "expires_in": 0}"#,
            r#"{"token": "t", "access_token": "u", "expires_in": -1, "refresh_token": null}"#,
            r#"{"token": "t", "access_token": null, "expires_in": 300.5}"#,
            r#"{"token": "t", "expires_in": 0.1}"#,
            r#"{"token": "t", "expires_in": "soon"}"#,
            r#"{"token": "t", "expires_in": 1e300}"#,
            r#"{"token": "t", "expires_in": 99999999999999999999999}"#,
            r#"{"token": false, "access_token": "t", "expires_in": []}"#,
        ] {
            assert_eq!(header(text).unwrap().as_deref(), Some("Bearer t"), "{text}");
        }
        for bad in ["{}", r#"{"token": null}"#, r#"{"token": "", "access_token": ""}"#] {
            assert!(header(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_link_local_token_server_is_asked_for_nothing() {
        let base = super::super::endpoint::Base::parse("http://registry.example.com").unwrap();
        let endpoint = Endpoint::at(base, "app", true);
        for realm in
            ["http://169.254.169.254/latest", "http://[fe80::1]/t", "http://[::ffff:169.254.169.254]/t"]
        {
            let asking = Asking { endpoint: &endpoint, realm, service: None, scope: None };
            assert_eq!(asking.check_realm(None).unwrap_err().kind(), Kind::Denied, "{realm}");
        }
    }

    #[test]
    fn only_hosts_of_one_domain_are_related() {
        for (registry, realm) in [
            ("registry-1.docker.io", "auth.docker.io"),
            ("registry.gitlab.com", "gitlab.com"),
            ("ghcr.io", "ghcr.io"),
            ("example.com", "auth.example.com"),
            ("localhost", "localhost"),
            ("10.0.0.1", "10.0.0.1"),
        ] {
            assert!(are_related(registry, realm), "{registry} {realm}");
        }
        for (registry, realm) in [
            ("ghcr.io", "evil.io"),
            ("a.example.com", "b.example.org"),
            ("example.com", "evilexample.com"),
            ("registry.example.com", "notexample.com"),
            ("10.0.0.1", "10.0.0.2"),
            ("10.0.0.1", "evil.0.0.1"),
            ("localhost", "evil.localhost"),
        ] {
            assert!(!are_related(registry, realm), "{registry} {realm}");
        }
    }
}
