//! TLS: trusted authorities, client certificates, and explanations of failed handshakes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::endpoint::Tls;
use crate::error::{Doing, Error, Kind, Result};

/// The paths of the system's trusted authorities.
const BUNDLES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Builds a TLS configuration; reads the system's authorities only now.
pub(super) fn config(tls: &Tls) -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(Kind::Bug, "set up TLS").because(error))?;
    let builder = if tls.trusts_all {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(TrustsAll(provider)))
    } else {
        builder.with_root_certificates(roots(&tls.authorities)?)
    };
    let mut config = match &tls.client {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let doing = || format!("use the client certificate {}", certificate.display());
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| Error::invalid(format!("read the key {}", key.display())).because(error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| Error::invalid(doing()).because(error))?
        }
    };
    config.resumption = rustls::client::Resumption::in_memory_sessions(4);
    Ok(Arc::new(config))
}

/// The system's authorities, or Mozilla's where a system has none, and `more`.
fn roots(more: &[PathBuf]) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    let chosen = std::env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from);
    let bundle = chosen.or_else(|| BUNDLES.iter().map(PathBuf::from).find(|path| path.exists()));
    if let Some(bundle) = bundle {
        // Bundles contain some certificates that cannot be parsed; the others are used.
        store.add_parsable_certificates(certificates(&bundle)?);
    }
    if store.is_empty() {
        store.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    for path in more {
        for certificate in certificates(path)? {
            store
                .add(certificate)
                .map_err(|error| Error::invalid(format!("trust {}", path.display())).because(error))?;
        }
    }
    Ok(store)
}

/// The certificates of a file in PEM form.
///
/// # Errors
/// The file cannot be read, or has none.
pub(crate) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let bytes = std::fs::read(path).doing(|| format!("read {}", path.display()))?;
    let all: std::result::Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(Error::invalid(format!("{} has no certificate in PEM form", path.display()))),
        Err(error) => Err(Error::invalid(format!("read {}", path.display())).because(error)),
    }
}

/// The name to verify a certificate against.
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>> {
    ServerName::try_from(host.to_owned())
        .map_err(|error| Error::invalid(format!("{host:?} is not a host name")).because(error))
}

/// Returns whether a failed handshake was with a server that uses TLS.
pub(super) fn is_spoken(error: &std::io::Error) -> bool {
    let cause = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    cause.is_some_and(|cause| !matches!(cause, rustls::Error::InvalidMessage(_)))
}

/// Converts a failed handshake to an error with a helpful hint.
pub(super) fn explain(error: std::io::Error) -> Error {
    let doing = "set up TLS";
    let Some(cause) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return Error::new(Kind::Unreachable, doing).because(error);
    };
    let hint = match cause {
        rustls::Error::InvalidCertificate(why) => match why {
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => format!(
                "check this machine's clock, which shows {}",
                chrono::Utc::now().format("%Y-%m-%d %H:%M UTC")
            ),
            CertificateError::UnknownIssuer => {
                "if the registry has an authority of its own, name it with --cert-dir or as `ca` in hosts.toml"
                    .to_owned()
            }
            _ => "the certificate is not one for this host".to_owned(),
        },
        rustls::Error::InvalidMessage(_) => {
            "it may speak plain HTTP: try --tls-verify=false, or configure it with http:// in hosts.toml".to_owned()
        }
        rustls::Error::AlertReceived(_) => "it may want a client certificate".to_owned(),
        _ => return Error::new(Kind::Unreachable, doing).because(error),
    };
    Error::new(Kind::Denied, doing).because(error).hint(hint)
}

/// For registries configured as insecure: the handshake is verified, the server's identity is not.
#[derive(Debug)]
struct TrustsAll(Arc<CryptoProvider>);

impl ServerCertVerifier for TrustsAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
