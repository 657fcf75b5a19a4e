//! An endpoint of a repository.

use std::path::PathBuf;
use std::time::Duration;

use super::login::Login;
use crate::error::{Error, Result};

/// A registry or mirror, from the view of one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) base: Base,
    /// The repository's name there.
    pub(super) repository: String,
    /// True if it may resolve tags. A mirror with old data must not.
    pub(super) resolves: bool,
    /// True if it may serve content by digest.
    pub(super) serves: bool,
    /// Sent as `?ns=`, for mirrors of several registries.
    pub(super) namespace: Option<String>,
    /// Headers sent with every request to this host and to no other.
    pub(super) headers: Vec<(String, String)>,
    pub(super) tls: Tls,
    /// The login in the same file as the endpoint.
    pub(super) login: Option<Login>,
    pub(super) connect: Option<Duration>,
    /// True if it is the registry of the image's name, not a mirror.
    pub(super) is_own: bool,
    /// True if plain HTTP is allowed if it does not support TLS.
    pub(super) or_plain: bool,
}

/// Scheme, host and the path before the repository.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Base {
    pub(super) secure: bool,
    /// Host, with the port if it is not the usual one.
    pub(super) authority: String,
    /// `/v2`, unless overridden.
    pub(super) path: String,
}

/// The TLS settings of an endpoint.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Tls {
    /// Certificates to trust besides the system's.
    pub(super) authorities: Vec<PathBuf>,
    /// The client certificate and its key.
    pub(super) client: Option<(PathBuf, PathBuf)>,
    /// True if any certificate is accepted.
    pub(super) trusts_all: bool,
}

impl Base {
    /// Parses `[http[s]://]host[:port][/path]`. Without a scheme, plain HTTP is used for a loopback host.
    pub(super) fn parse(text: &str) -> Result<Self> {
        let (secure, rest) = match text.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err(malformed(text)),
            None => (!is_loopback(text.split('/').next().unwrap_or(text)), text),
        };
        let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
        let is_clean = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() && !b"?#@\\".contains(&b));
        let is_uri = || format!("http://{authority}{path}/").parse::<hyper::Uri>().is_ok();
        if authority.is_empty() || !is_clean(authority) || !is_clean(path) || !is_uri() {
            return Err(malformed(text));
        }
        let path = path.trim_end_matches('/').to_owned();
        Ok(Self { secure, authority: authority.to_ascii_lowercase(), path })
    }

    /// The same with `/v2` at the end of its path, where the API begins.
    pub(super) fn with_api(mut self) -> Self {
        if !self.path.ends_with("/v2") {
            self.path.push_str("/v2");
        }
        self
    }
}

/// Returns whether a repository name that a configuration of mirrors produced is safe in the path of a URL.
pub(super) fn is_repository(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic() && !b"?#@%\\".contains(&b))
        && text.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

fn malformed(text: &str) -> Error {
    let short: String = text.chars().take(100).collect();
    Error::invalid(format!("{short:?} is not an address of a registry"))
        .hint("write http[s]://host[:port][/path]")
}

impl Endpoint {
    /// The default endpoint at `base`, which resolves and serves.
    pub(super) fn at(base: Base, repository: &str, is_own: bool) -> Self {
        Self {
            base,
            repository: repository.to_owned(),
            resolves: true,
            serves: true,
            namespace: None,
            headers: Vec::new(),
            tls: Tls::default(),
            login: None,
            connect: None,
            is_own,
            or_plain: false,
        }
    }

    /// The same with plain HTTP.
    pub(super) fn plain(&self) -> Self {
        let base = Base { secure: false, ..self.base.clone() };
        Self { base, or_plain: false, ..self.clone() }
    }

    /// The same with TLS, and plain HTTP where TLS is not spoken, for a plain endpoint with TLS settings: containerd takes
    /// the settings for a sign that TLS is meant, unless the port is that of plain HTTP.
    pub(super) fn tls_first(&self) -> Option<Self> {
        let may_be_tls = port_of(&self.base.authority).is_some_and(|port| port != "80");
        let is_meant = !self.base.secure && may_be_tls && self.tls != Tls::default();
        let base = Base { secure: true, ..self.base.clone() };
        is_meant.then(|| Self { base, or_plain: true, ..self.clone() })
    }

    /// The URL of `what` in the repository, `manifests/latest` for example.
    pub(super) fn url(&self, what: &str) -> String {
        let Base { secure, authority, path } = &self.base;
        let scheme = if *secure { "https" } else { "http" };
        let mut url = format!("{scheme}://{authority}{path}/{}", self.repository);
        if !what.is_empty() {
            url.push('/');
            url.push_str(what);
        }
        if let Some(namespace) = &self.namespace {
            url.push(if what.contains('?') { '&' } else { '?' });
            url.push_str("ns=");
            url.push_str(namespace);
        }
        url
    }
}

/// The host of `host[:port]`, without the brackets of an IPv6 address.
pub(super) fn host_of(authority: &str) -> &str {
    if let Some(inside) = authority.strip_prefix('[') {
        return inside.split(']').next().unwrap_or(inside);
    }
    authority.split(':').next().unwrap_or(authority)
}

/// The port of `host[:port]`.
pub(super) fn port_of(authority: &str) -> Option<&str> {
    let after_host = match authority.strip_prefix('[') {
        Some(inside) => inside.split_once(']')?.1,
        None => authority.get(host_of(authority).len()..)?,
    };
    after_host.strip_prefix(':').filter(|port| !port.is_empty())
}

/// Returns whether `host[:port]` is this machine.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = host_of(authority);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_others_refused() {
        let url = |text: &str| {
            let base = Base::parse(text).unwrap().with_api();
            Endpoint::at(base, "a/b", false).url("blobs/x")
        };
        assert_eq!(url("https://Mirror.example/"), "https://mirror.example/v2/a/b/blobs/x");
        assert_eq!(url("http://m:5000/proxy"), "http://m:5000/proxy/v2/a/b/blobs/x");
        assert_eq!(url("[::1]:5000"), "http://[::1]:5000/v2/a/b/blobs/x");
        assert_eq!(url("m:5000/v2"), "https://m:5000/v2/a/b/blobs/x");
        for bad in ["", "ftp://x", "https://", "https://a b", "https://u:p@x", "x?y", "/x", "x:port:y"] {
            assert!(Base::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn ports_are_found_and_tls_settings_of_a_plain_endpoint_mean_tls() {
        for (authority, port) in
            [("a", None), ("a:5", Some("5")), ("[::1]", None), ("[::1]:5", Some("5")), ("a:", None)]
        {
            assert_eq!(port_of(authority), port, "{authority}");
        }
        let first = |address: &str, trusts_all: bool| {
            let mut endpoint = Endpoint::at(Base::parse(address).unwrap(), "a", false);
            endpoint.tls.trusts_all = trusts_all;
            endpoint.tls_first().is_some_and(|first| first.base.secure && first.or_plain)
        };
        assert!(first("http://m:5000", true));
        for (address, trusts_all) in
            [("http://m:5000", false), ("http://m:80", true), ("http://m", true), ("https://m:5", true)]
        {
            assert!(!first(address, trusts_all), "{address}");
        }
    }

    #[test]
    fn loopback_is_recognized_by_the_address() {
        for yes in ["localhost", "localhost:5000", "127.0.0.1:1", "127.9.9.9", "[::1]:5000"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["localhost.example", "10.0.0.1", "128.0.0.1", "[fe80::1]:80", "127.0.0.1.example"] {
            assert!(!is_loopback(no), "{no}");
        }
    }
}
