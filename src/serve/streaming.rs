//! The address of the server for exec, attach and port-forward, and its TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use super::config;
use crate::error::{Doing, Error, Kind, Result};
use crate::image::registry::certificates;

/// Listens where the configuration says.
///
/// # Errors
/// The address cannot be used; a certificate or a key is missing or damaged.
pub(super) fn bind(config: &config::Streaming) -> Result<coracle_cri::Streaming> {
    let tls = tls(config).map_err(|error| error.doing("set up TLS for streaming"))?;
    coracle_cri::Streaming::bind(config.address, tls)
        .doing(|| format!("listen on {} for exec, attach and port-forward", config.address))
        .map_err(|error| error.hint("change [streaming] address in the configuration; port 0 is a free port"))
}

fn tls(config: &config::Streaming) -> Result<Option<Arc<ServerConfig>>> {
    let (certificate, key) = match (&config.tls_cert, &config.tls_key, &config.tls_client_ca) {
        (Some(certificate), Some(key), _) => (certificate, key),
        (None, None, None) => return Ok(None),
        _ => return Err(Error::invalid("tls_cert and tls_key must both be given, also for tls_client_ca")),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::Bug, "choose the versions of TLS").because(error))?;
    let builder = match &config.tls_client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(authorities(path)?), provider);
            let invalid = |error| Error::invalid(format!("trust {}", path.display())).because(error);
            builder.with_client_cert_verifier(verifier.build().map_err(invalid)?)
        }
    };
    let unreadable = |error| Error::invalid(format!("read the key {}", key.display())).because(error);
    let private = PrivateKeyDer::from_pem_file(key).map_err(unreadable)?;
    let mut config = builder
        .with_single_cert(certificates(certificate)?, private)
        .map_err(|error| Error::invalid(format!("use {}", certificate.display())).because(error))?;
    // A session lasts as long as its connection, and kubelet opens one for each: nothing is resumed.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Some(Arc::new(config)))
}

fn authorities(path: &Path) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(path)? {
        let invalid = |error| Error::invalid(format!("trust {}", path.display())).because(error);
        store.add(certificate).map_err(invalid)?;
    }
    Ok(store)
}
