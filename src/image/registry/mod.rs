//! The registry client: one repository, at all endpoints that the host's configuration has for it.
//!
//! ```text
//! Reference -> table (hosts.toml | registries.yaml | registries.conf | defaults) -> [Endpoint]
//! Endpoint -> session (auth, redirects, refusals) -> wire (proxy, TCP, TLS, HTTP/1.1) -> bytes
//! ```
//!
//! Everything outside this module blocks; each [`wire::Wire`] owns a runtime of one thread and serves one caller at a
//! time. The reader of a blob never sees a broken connection: [`download::Download`] resumes it.
//!
//! SPEC(distribution 1.1)

mod attempts;
mod auth;
mod cancel;
mod challenge;
mod credential_program;
mod credentials;
mod download;
mod endpoint;
mod fault;
mod file;
mod hosts_toml;
mod k3s;
mod login;
mod lookup;
mod received;
mod redirect;
mod registries_conf;
mod repository;
mod session;
mod table;
mod tls;
mod url;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

pub use cancel::Cancel;
pub(super) use download::Download;
pub use k3s::ignored as ignored_k3s_settings;
pub use login::Login;
pub(super) use repository::{Fetched, Repository};
pub(crate) use tls::certificates;

use crate::error::Result;
use crate::store::reference::Reference;

/// Access to registries: configuration files, credentials, and timing.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// The login for the registry of the image's name; it is sent to no other host, mirrors included.
    pub login: Option<Login>,
    /// The file with logins, instead of the default ones.
    pub auth_file: Option<PathBuf>,
    /// The directory of certificates for the registry of the image's name: `*.crt`, and `*.cert` with `*.key`.
    pub cert_dir: Option<PathBuf>,
    /// `false`: no certificate of that registry is verified, and it may use plain HTTP. `true`: always TLS.
    pub tls_verify: Option<bool>,
    /// containerd's certs.d directories; the first with an entry for a registry is used.
    pub hosts_dirs: Vec<PathBuf>,
    /// registries.conf(5) of containers/image; its `.d` directory is read too.
    pub registries_conf: PathBuf,
    /// The registries.yaml of K3s.
    pub k3s_registries: PathBuf,
    /// Timeouts and retries.
    pub timing: Timing,
    /// Cancels the work.
    pub cancel: Cancel,
    /// Counts transfers that go on where an earlier one has stopped.
    pub resumes: Arc<AtomicU64>,
}

/// Timeouts and retries.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// The timeout for a connection, including name lookup and TLS.
    pub connect: Duration,
    /// The timeout for the next bytes. A whole transfer has no limit.
    pub progress: Duration,
    /// The wait before the first retry; doubled for each further one.
    pub backoff: Duration,
    /// Attempts without progress before giving up.
    pub tries: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            progress: Duration::from_secs(60),
            backoff: Duration::from_millis(500),
            tries: 8,
        }
    }
}

impl Default for RegistryOptions {
    fn default() -> Self {
        let dirs =
            ["/etc/coracle/certs.d", "/etc/containerd/certs.d", "/var/snap/microk8s/current/args/certs.d"];
        Self {
            login: None,
            auth_file: None,
            cert_dir: None,
            tls_verify: None,
            hosts_dirs: dirs.into_iter().map(PathBuf::from).collect(),
            registries_conf: "/etc/containers/registries.conf".into(),
            k3s_registries: "/etc/rancher/k3s/registries.yaml".into(),
            timing: Timing::default(),
            cancel: Cancel::default(),
            resumes: Arc::default(),
        }
    }
}

/// The URLs of the endpoints for `reference`, in order, without any request.
///
/// # Errors
/// `Invalid` when a configuration file cannot be parsed, `Denied` when it blocks the registry.
pub fn places(options: &RegistryOptions, reference: &Reference) -> Result<Vec<String>> {
    let mut urls = Vec::new();
    for endpoint in table::endpoints(options, reference)? {
        urls.push(endpoint.url(""));
        if endpoint.or_plain {
            urls.push(endpoint.plain().url(""));
        }
    }
    Ok(urls)
}
