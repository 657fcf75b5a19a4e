//! A host that a registry redirects to, and that wants credentials of its own: a name that fronts other registries (lscr.io
//! leads to ghcr.io), or a registry that has moved.
//!
//! Nothing of the first host goes along. The other host is asked for an anonymous token. A login stored for that very host
//! is used only where its identity is certain: over TLS, verified by the system's authorities alone, or on this machine.
//! So a registry whose certificate is not verified, or is verified by an authority of its own, cannot pose as another one
//! to get the login for it.

use hyper::Uri;

use super::RegistryOptions;
use super::credentials;
use super::endpoint::{Base, Endpoint, Tls, is_loopback, is_repository};
use super::k3s;
use super::login::Login;
use super::session::key;
use crate::error::Result;

/// A host that is not the one that was asked first.
#[derive(Debug)]
pub(super) struct Elsewhere {
    /// The repository there, as far as it can be told from the URL.
    pub(super) endpoint: Endpoint,
}

impl Elsewhere {
    /// The host of `uri`, to which a request to `home` was redirected. `tls` is how it is talked to.
    pub(super) fn of(uri: &Uri, home: &Endpoint, tls: Tls) -> Self {
        let authority = uri.authority().map_or("", |authority| authority.as_str()).to_ascii_lowercase();
        let base = Base { secure: uri.scheme_str() == Some("https"), authority, path: "/v2".to_owned() };
        let repository = repository_of(uri.path()).unwrap_or(&home.repository);
        let mut endpoint = Endpoint::at(base, repository, false);
        endpoint.tls = tls;
        Self { endpoint }
    }

    /// The key under which the credentials for this host are known. Those that `home` led to are kept apart from those of
    /// an endpoint of the same URL, which may have been verified in another way.
    pub(super) fn key(&self, home: &Endpoint) -> String {
        format!("{} from {}", key(&self.endpoint), key(home))
    }

    /// The login stored for this host: in the registries.yaml of K3s, else in the files of docker and podman.
    pub(super) fn login(&self, options: &RegistryOptions) -> Result<Option<Login>> {
        let Endpoint { base, tls, repository, .. } = &self.endpoint;
        let is_certain = base.secure && !tls.trusts_all && tls.authorities.is_empty();
        if !is_certain && !is_loopback(&base.authority) {
            return Ok(None);
        }
        match k3s::login(&options.k3s_registries, &base.authority)? {
            Some(login) => Ok(Some(login)),
            None => credentials::find(options.auth_file.as_deref(), &base.authority, repository),
        }
    }
}

/// The repository in the path of a manifest or blob.
fn repository_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v2/")?;
    let end = ["/manifests/", "/blobs/"].iter().find_map(|part| rest.rfind(part))?;
    Some(&rest[..end]).filter(|repository| is_repository(repository))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(uri: &str, tls: Tls) -> Elsewhere {
        let home = Endpoint::at(Base::parse("https://r.example").unwrap().with_api(), "a/b", true);
        Elsewhere::of(&uri.parse().unwrap(), &home, tls)
    }

    #[test]
    fn the_repository_is_that_of_the_url() {
        for (path, repository) in [
            ("/v2/c/d/manifests/1", "c/d"),
            ("/v2/c/d/blobs/sha256:x?sig=y", "c/d"),
            ("/docker/registry/v2/blobs/x", "a/b"),
            ("/v2/../x/blobs/y", "a/b"),
            ("/", "a/b"),
        ] {
            assert_eq!(
                at(&format!("https://o.example{path}"), Tls::default()).endpoint.repository,
                repository
            );
        }
    }

    #[test]
    fn a_stored_login_is_used_only_for_a_host_whose_identity_is_certain() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("auth.json");
        let hosts = ["o.example", "o.example:5000", "127.0.0.1:5000"];
        let auths = hosts.map(|host| format!("\"{host}\": {{\"auth\": \"dTpw\"}}")).join(",");
        std::fs::write(&file, format!("{{\"auths\": {{{auths}}}}}")).unwrap();
        let k3s = dir.path().join("registries.yaml");
        let options = RegistryOptions {
            auth_file: Some(file),
            k3s_registries: k3s.clone(),
            ..RegistryOptions::default()
        };
        let has = |uri: &str, tls: Tls| at(uri, tls).login(&options).unwrap().is_some();
        assert!(has("https://o.example/v2/", Tls::default()));
        assert!(has("http://127.0.0.1:5000/v2/", Tls::default()));
        assert!(!has("http://o.example:5000/v2/", Tls::default()));
        assert!(!has("https://other.example/v2/", Tls::default()));
        std::fs::write(&k3s, "configs: {k.example: {auth: {username: u}}, \"*\": {auth: {username: u}}}")
            .unwrap();
        assert!(has("https://k.example/v2/", Tls::default()) && !has("http://k.example/v2/", Tls::default()));
        assert!(!has("https://other.example/v2/", Tls::default()), "the login for all is for none");
        assert!(!has("https://o.example/v2/", Tls { trusts_all: true, ..Tls::default() }));
        assert!(!has("https://o.example/v2/", Tls { authorities: vec!["/ca.pem".into()], ..Tls::default() }));
    }
}
