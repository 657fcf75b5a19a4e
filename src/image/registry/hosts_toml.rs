//! containerd's `certs.d/<host>/hosts.toml`: mirrors of one registry, or in `_default` of all.

use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::endpoint::{Base, Endpoint, Tls, is_loopback};
use super::file::{certificates, malformed, own_base, read};
use crate::error::Result;
use crate::store::reference::Reference;

#[derive(Debug, Default, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: Ordered<Host>,
    #[serde(flatten)]
    of_server: Host,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Host {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany>,
    client: Option<Client>,
    skip_verify: bool,
    header: Ordered<OneOrMany>,
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// `"both.pem"`, `["both.pem"]` or `[["cert.pem", "key.pem"]]`.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Client {
    Both(String),
    Pairs(Vec<OneOrMany>),
}

/// A table in the order of the file: the first mirror is tried first.
#[derive(Debug)]
struct Ordered<T>(Vec<(String, T)>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Ordered<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for InOrder<T> {
            type Value = Ordered<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered<T>, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Ordered(entries))
            }
        }
        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

/// The endpoints that the directory `dir` configures for the registry of `reference`; `None` without a configuration.
pub(super) fn endpoints(dir: &Path, reference: &Reference) -> Result<Option<Vec<Endpoint>>> {
    let registry = reference.registry();
    // Some file systems do not allow a colon in a name: `host:5000` may be `host_5000_`.
    let escaped = registry.rsplit_once(':').map(|(host, port)| format!("{host}_{port}_"));
    let names = escaped.into_iter().chain([registry.to_owned(), "_default".to_owned()]);
    for place in names.map(|name| dir.join(name)) {
        let path = place.join("hosts.toml");
        if let Some(text) = read(&path)? {
            return parse(&text, &path, reference).map(Some);
        }
        if place.is_dir() && !place.ends_with("_default") {
            let mut own = Endpoint::at(own_base(registry)?, reference.path(), true);
            own.or_plain = is_loopback(registry);
            own.tls = certificates(&place)?;
            return Ok(Some(vec![own]));
        }
    }
    Ok(None)
}

/// Parses one file. Paths in it are relative to its directory.
pub(super) fn parse(text: &str, path: &Path, reference: &Reference) -> Result<Vec<Endpoint>> {
    let file: File = toml::from_str(text).map_err(|error| malformed(path, error))?;
    let read = Reader { path, reference };
    let mut endpoints = Vec::new();
    for (address, host) in &file.host.0 {
        endpoints.push(read.endpoint(Base::parse(address)?, host)?);
    }
    let own = own_base(reference.registry())?;
    let server = match &file.server {
        Some(server) => {
            let base = Base::parse(server)?;
            // Files that contain docker.io mean its registry's host.
            if base.authority == "docker.io" { own.clone() } else { base }
        }
        None => own.clone(),
    };
    let mut last = read.endpoint(server, &file.of_server)?;
    last.is_own = last.base.authority == own.authority;
    if last.is_own {
        last.namespace = None;
    }
    // Without a `server`, the registry itself: on a loopback address it may use plain HTTP, as it may without a file.
    last.or_plain = file.server.is_none() && is_loopback(reference.registry());
    if !endpoints.iter().any(|endpoint| endpoint.base == last.base) {
        endpoints.push(last);
    }
    Ok(endpoints)
}

struct Reader<'a> {
    path: &'a Path,
    reference: &'a Reference,
}

impl Reader<'_> {
    fn endpoint(&self, base: Base, host: &Host) -> Result<Endpoint> {
        let base = if host.override_path { base } else { base.with_api() };
        let registry = self.reference.registry();
        let is_own = base.authority == own_base(registry)?.authority;
        let can = |what: &str| host.capabilities.as_ref().is_none_or(|all| all.iter().any(|one| one == what));
        let mut endpoint = Endpoint::at(base, self.reference.path(), is_own);
        endpoint.resolves = can("resolve");
        endpoint.serves = can("pull");
        endpoint.namespace = (!is_own).then(|| registry.to_owned());
        endpoint.tls = self.tls(host)?;
        for (name, values) in &host.header.0 {
            endpoint.headers.extend(values.list().iter().map(|value| (name.clone(), value.clone())));
        }
        endpoint.connect = host.dial_timeout.as_deref().map(|text| self.duration(text)).transpose()?;
        Ok(endpoint)
    }

    fn tls(&self, host: &Host) -> Result<Tls> {
        let authorities = host.ca.iter().flat_map(OneOrMany::list).map(|name| self.beside(name)).collect();
        let client = match &host.client {
            None => None,
            Some(Client::Both(both)) => Some((self.beside(both), self.beside(both))),
            Some(Client::Pairs(pairs)) => match pairs.first().map(OneOrMany::list) {
                Some([both]) => Some((self.beside(both), self.beside(both))),
                Some([cert, key]) => Some((self.beside(cert), self.beside(key))),
                _ => return Err(malformed(self.path, "client is neither a file nor pairs of them")),
            },
        };
        Ok(Tls { authorities, client, trusts_all: host.skip_verify })
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.path.parent().unwrap_or(self.path).join(name)
    }

    /// A duration as Go writes it: `1s`, `500ms`, `1m30s`.
    fn duration(&self, text: &str) -> Result<Duration> {
        let wrong = || malformed(self.path, format!("{text:?} is not a duration such as 5s"));
        let mut rest = text;
        let mut total = Duration::ZERO;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
            let (number, unit) = rest.split_at(digits);
            let length = unit.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(unit.len());
            let seconds = match &unit[..length] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 0.001,
                _ => return Err(wrong()),
            };
            let value: f64 = number.parse().map_err(|_| wrong())?;
            total += Duration::try_from_secs_f64(value * seconds).map_err(|_| wrong())?;
            rest = &unit[length..];
        }
        if total.is_zero() { Err(wrong()) } else { Ok(total) }
    }
}

impl OneOrMany {
    fn list(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(text: &str, image: &str) -> Result<Vec<Endpoint>> {
        parse(text, Path::new("/etc/certs.d/x/hosts.toml"), &Reference::parse(image).unwrap())
    }

    #[test]
    fn mirrors_come_in_the_order_of_the_file_and_the_server_last() {
        let text = r#"
            server = "https://docker.io"
            [host."https://z.example"]
              capabilities = ["pull"]
              ca = "z.pem"
              dial_timeout = "1m1.5s"
              [host."https://z.example".header]
                x-key = ["one", "two"]
            [host."http://a.example:5000/hub"]
              override_path = true
              skip_verify = true
              client = [["/c.pem", "k.pem"]]
        "#;
        let found = read_all(text, "busybox:1").unwrap();
        let urls: Vec<String> = found.iter().map(|endpoint| endpoint.url("tags/list")).collect();
        assert_eq!(
            urls,
            [
                "https://z.example/v2/library/busybox/tags/list?ns=docker.io",
                "http://a.example:5000/hub/library/busybox/tags/list?ns=docker.io",
                "https://registry-1.docker.io/v2/library/busybox/tags/list",
            ]
        );
        assert!(!found[0].resolves && found[0].serves && found[1].resolves);
        assert_eq!(found[0].tls.authorities, [PathBuf::from("/etc/certs.d/x/z.pem")]);
        assert_eq!(found[0].connect, Some(Duration::from_millis(61_500)));
        assert_eq!(found[0].headers.len(), 2);
        let client = ("/c.pem".into(), "/etc/certs.d/x/k.pem".into());
        assert_eq!(found[1].tls, Tls { client: Some(client), trusts_all: true, ..Tls::default() });
        assert_eq!(found.iter().map(|e| e.is_own).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn a_file_without_a_server_falls_back_to_the_registry_and_nonsense_is_refused() {
        let found = read_all("", "ghcr.io/a/b").unwrap();
        assert_eq!(found[0].url(""), "https://ghcr.io/v2/a/b");
        for bad in [
            "server = 3",
            "[host",
            "[host.\"ftp://x\"]",
            "dial_timeout = \"5\"",
            "client = [[\"a\",\"b\",\"c\"]]",
        ] {
            assert!(read_all(bad, "ghcr.io/a/b").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_registry_itself_may_be_plain_on_this_machine_unless_a_server_is_named() {
        for (text, image, is_plain) in [
            ("skip_verify = true", "127.0.0.1:5000/a", true),
            ("[host.\"https://m.example\"]", "localhost:5000/a", true),
            ("server = \"https://localhost:5000\"", "localhost:5000/a", false),
            ("", "r.example:5000/a", false),
        ] {
            assert_eq!(read_all(text, image).unwrap().last().unwrap().or_plain, is_plain, "{text}");
        }
    }

    proptest::proptest! {
        /// An accepted file leads only to http and https, and to the registry as the last endpoint.
        #[test]
        fn a_strange_file_is_read_or_refused(
            host in "(https?://)?[a-z0-9.:/@?-]{0,20}",
            key in "ca|client|header|capabilities|skip_verify|override_path|dial_timeout|x",
            value in "true|\"[a-z0-9.]{0,6}\"|\\[\"a\", *\"b\"\\]|\\[\\[\"a\"\\]\\]|\\{x = \"y\"\\}|[0-9]{1,4}|\\PC{0,8}",
        ) {
            let text = format!("[host.\"{host}\"]\n{key} = {value}\n");
            if let Ok(endpoints) = read_all(&text, "ghcr.io/a/b") {
                proptest::prop_assert!(!endpoints.is_empty());
                proptest::prop_assert!(endpoints.iter().all(|e| super::super::url::parse(&e.url("x")).is_ok()));
            }
        }
    }
}
