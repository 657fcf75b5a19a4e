//! The registry client: one repository of a registry, at any of the places that the host's configuration names for it.
//!
//! ```text
//! Reference -> table (hosts.toml | registries.yaml | registries.conf | defaults) -> [Endpoint]
//! Endpoint -> session (auth, redirects, refusals) -> wire (proxy, TCP, TLS, HTTP/1.1) -> bytes
//! ```
//!
//! Everything outside this module blocks; each [`wire::Wire`] owns a runtime of one thread and is used by one at a time.
//! Whoever reads a blob never sees a broken connection: [`download::Download`] goes on where it stood.
//!
//! SPEC(distribution 1.1)

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
mod registries_conf;
mod repository;
mod session;
mod table;
mod tls;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

pub use cancel::Cancel;
pub(super) use download::Download;
pub use login::Login;
pub(super) use repository::{Found, Repository};

use crate::error::Result;
use crate::store::reference::Reference;

/// How a registry is reached, and with whose rights.
#[derive(Debug, Clone)]
pub struct RegistryOptions {
    /// What to say to the registry of the image's name; to nobody else, mirrors included.
    pub login: Option<Login>,
    /// The file with logins, in the place of the usual ones.
    pub auth_file: Option<PathBuf>,
    /// Certificates for the registry of the image's name: `*.crt`, and `*.cert` with `*.key`.
    pub cert_dir: Option<PathBuf>,
    /// `false`: no certificate of that registry is checked, and it may speak plain HTTP. `true`: always TLS.
    pub tls_verify: Option<bool>,
    /// containerd's certs.d directories; the first that knows a registry counts.
    pub hosts_dirs: Vec<PathBuf>,
    /// registries.conf(5) of containers/image; its `.d` directory is read too.
    pub registries_conf: PathBuf,
    /// The registries.yaml of K3s.
    pub k3s_registries: PathBuf,
    /// How long to wait for what.
    pub timing: Timing,
    /// Ends it all when nobody wants it any more.
    pub cancel: Cancel,
}

/// How long to wait, and how often to try again.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// For a connection, name lookup and TLS included.
    pub connect: Duration,
    /// For the next bytes. There is no limit for a whole transfer.
    pub progress: Duration,
    /// Before the second try; doubled before each further one.
    pub backoff: Duration,
    /// Tries without any progress before giving up.
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
        }
    }
}

/// Where `reference` would be looked for, in order, as URLs; nothing is asked.
///
/// # Errors
/// `Invalid` when a configuration file cannot be understood, `Denied` when it blocks the registry.
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
