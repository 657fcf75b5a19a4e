//! URLs of requests, and of redirects in the forms that servers write.

use hyper::Uri;

use crate::error::{Error, Result};

/// Parses an absolute http or https URL. One with a name and a password in it is refused: it would send them to a host
/// that the user did not choose.
pub(super) fn parse(text: &str) -> Result<Uri> {
    let uri: Option<Uri> = text.parse().ok();
    let is_web = |uri: &Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    let is_plain = |uri: &Uri| uri.authority().is_some_and(|authority| !authority.as_str().contains('@'));
    uri.filter(|uri| is_web(uri) && is_plain(uri)).ok_or_else(|| {
        let short: String = text.chars().take(200).collect();
        Error::invalid(format!("{short:?} is not an http or https address"))
    })
}

/// Resolves the `Location` of a redirect from `base` (RFC 9110 section 10.2.2, RFC 3986 section 5.2). Bytes that no URL
/// may have, such as a space, are encoded, as Go's client does.
pub(super) fn resolve(base: &Uri, location: &[u8]) -> Result<Uri> {
    let reference = encoded(location.trim_ascii());
    let reference = reference.split('#').next().unwrap_or_default();
    if reference.is_empty() {
        return Err(Error::invalid("a redirect names no address"));
    }
    let scheme = base.scheme_str().unwrap_or("https");
    let authority = base.authority().map_or("", |authority| authority.as_str());
    let whole = if let Some(own_scheme) = scheme_of(reference) {
        let rest = reference[own_scheme.len()..].strip_prefix("://");
        let rest =
            rest.ok_or_else(|| Error::invalid(format!("a redirect leads to the scheme {own_scheme:?}")))?;
        format!("{}://{rest}", own_scheme.to_ascii_lowercase())
    } else if reference.starts_with("//") {
        format!("{scheme}:{reference}")
    } else if reference.starts_with('/') {
        format!("{scheme}://{authority}{reference}")
    } else if reference.starts_with('?') {
        format!("{scheme}://{authority}{}{reference}", base.path())
    } else {
        let folder = base.path().rfind('/').map_or("/", |at| &base.path()[..=at]);
        format!("{scheme}://{authority}{folder}{reference}")
    };
    let uri = parse(&without_dots(&whole)).map_err(|e| e.doing("follow a redirect"))?;
    match uri.authority() {
        Some(authority) if !authority.as_str().is_empty() => Ok(uri),
        _ => Err(Error::invalid("a redirect names no host")),
    }
}

/// The scheme that a reference begins with.
fn scheme_of(reference: &str) -> Option<&str> {
    let (scheme, _) = reference.split_once(':')?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+.-".contains(&b));
    is_scheme.then_some(scheme)
}

fn encoded(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_graphic() && !b"\"<>\\^`{|}".contains(byte) {
            text.push(char::from(*byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
    }
    text
}

/// The URL with the segments `.` and `..` of its path removed.
fn without_dots(whole: &str) -> String {
    let (before, query) = whole.find('?').map_or((whole, ""), |at| whole.split_at(at));
    let host_at = before.find("://").map_or(0, |at| at + 3);
    let Some(path_at) = before[host_at..].find('/').map(|at| host_at + at) else { return whole.to_owned() };
    let (origin, path) = before.split_at(path_at);
    let mut kept: Vec<&str> = Vec::new();
    let segments: Vec<&str> = path[1..].split('/').collect();
    for (number, segment) in segments.iter().enumerate() {
        let is_last = number + 1 == segments.len();
        match *segment {
            "." if is_last => kept.push(""),
            "." => {}
            ".." => {
                kept.pop();
                if is_last {
                    kept.push("");
                }
            }
            other => kept.push(other),
        }
    }
    format!("{origin}/{}{query}", kept.join("/"))
}

/// Returns whether credentials for `home` may be sent to `other`: the same host and port, by the same scheme or by TLS
/// in the place of plain HTTP.
pub(super) fn is_at_home(home: &Uri, other: &Uri) -> bool {
    let is_same_scheme = home.scheme_str() == other.scheme_str();
    let is_upgrade = (home.scheme_str(), other.scheme_str()) == (Some("http"), Some("https"));
    let host = |uri: &Uri| uri.host().map(str::to_ascii_lowercase);
    host(home) == host(other)
        && ((is_same_scheme && port(home) == port(other))
            || (is_upgrade && (home.port_u16(), other.port_u16()) == (None, None)))
}

fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
}

/// Returns whether a host is a link-local address, such as that of a cloud's metadata. No name is looked up.
pub(super) fn is_link_local(host: &str) -> bool {
    let host = host.strip_prefix('[').and_then(|inside| inside.strip_suffix(']')).unwrap_or(host);
    match host.parse() {
        Ok(std::net::IpAddr::V4(ip)) => ip.is_link_local(),
        Ok(std::net::IpAddr::V6(ip)) => {
            ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some_and(|ip| ip.is_link_local())
        }
        Err(_) => false,
    }
}

/// A URL without its query, which may contain a signature.
pub(super) fn shown(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!("{}://{authority}{}", uri.scheme_str().unwrap_or(""), uri.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(base: &str, location: &str) -> Result<String> {
        resolve(&parse(base).unwrap(), location.as_bytes()).map(|uri| uri.to_string())
    }

    #[test]
    fn redirects_are_resolved_against_their_origin() {
        let base = "https://r.example/v2/a/blobs/x?y=1";
        for (location, meant) in [
            ("https://cdn.example/z?sig=1#f", "https://cdn.example/z?sig=1"),
            ("HTTPS://cdn.example/z", "https://cdn.example/z"),
            ("https://cdn.example", "https://cdn.example/"),
            ("https://cdn.example?sig=1", "https://cdn.example/?sig=1"),
            ("//cdn.example/z", "https://cdn.example/z"),
            ("//cdn.example:444/z", "https://cdn.example:444/z"),
            ("/z", "https://r.example/z"),
            ("z", "https://r.example/v2/a/blobs/z"),
            ("./z", "https://r.example/v2/a/blobs/z"),
            ("../../b/blobs/z", "https://r.example/v2/b/blobs/z"),
            ("../../../../../z", "https://r.example/z"),
            ("..", "https://r.example/v2/a/"),
            ("/a/../b/./c", "https://r.example/b/c"),
            ("?sig=2", "https://r.example/v2/a/blobs/x?sig=2"),
            ("z?next=https://other.example/", "https://r.example/v2/a/blobs/z?next=https://other.example/"),
            ("/z?next=https://other.example/../x", "https://r.example/z?next=https://other.example/../x"),
            ("sha256/z:1", "https://r.example/v2/a/blobs/sha256/z:1"),
            (" /z \r", "https://r.example/z"),
            ("/a b\"{c}|d", "https://r.example/a%20b%22%7Bc%7D%7Cd"),
            ("/\u{e4}?sig=%2F+", "https://r.example/%C3%A4?sig=%2F+"),
        ] {
            assert_eq!(from(base, location).unwrap(), meant, "{location}");
        }
    }

    #[test]
    fn redirects_to_nowhere_or_with_a_login_in_them_are_refused() {
        for bad in [
            "",
            " ",
            "#f",
            "ftp://x/",
            "file:///etc/passwd",
            "data:text/plain,x",
            "https:/x",
            "https:x",
            "https://",
            "https:///x",
            "//",
            "https://u:p@x/",
            "//u@x/",
            "https://a.example\\@evil.example/",
            "https://a.example%2F@evil.example/",
        ] {
            assert!(from("https://r.example/v2/", bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn another_port_or_a_weaker_scheme_is_another_host() {
        let at_home = |home: &str, other: &str| is_at_home(&parse(home).unwrap(), &parse(other).unwrap());
        for (home, other) in [
            ("https://A.example/x", "https://a.example/y"),
            ("https://a.example/", "https://a.example:443/"),
            ("http://a.example:80/", "http://a.example/"),
            ("http://a.example/", "https://a.example/"),
        ] {
            assert!(at_home(home, other), "{home} {other}");
        }
        for (home, other) in [
            ("https://a.example/", "http://a.example/"),
            ("https://a.example/", "https://a.example:444/"),
            ("http://a.example/", "https://a.example:444/"),
            ("http://a.example:5000/", "https://a.example:5000/"),
            ("https://a.example/", "https://b.a.example/"),
        ] {
            assert!(!at_home(home, other), "{home} {other}");
        }
    }

    #[test]
    fn link_local_addresses_are_known_in_each_form() {
        for yes in
            ["169.254.169.254", "fe80::1", "[fe80::1]", "[::ffff:169.254.169.254]", "::ffff:169.254.0.1"]
        {
            assert!(is_link_local(yes), "{yes}");
        }
        for no in
            ["168.254.1.1", "127.0.0.1", "::1", "[2001:db8::1]", "169.254.169.254.example", "metadata", ""]
        {
            assert!(!is_link_local(no), "{no}");
        }
    }

    proptest::proptest! {
        /// Whatever a server writes, the request goes to http or https, without a login in the URL.
        #[test]
        fn any_location_is_resolved_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..40)) {
            if let Ok(uri) = resolve(&parse("https://r.example/v2/x").unwrap(), &bytes) {
                proptest::prop_assert!(matches!(uri.scheme_str(), Some("http" | "https")));
                proptest::prop_assert!(uri.host().is_some_and(|host| !host.is_empty()));
            }
        }
    }
}
