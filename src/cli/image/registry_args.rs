//! Options for reaching a registry, named as in podman and skopeo.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::image::policy::PolicyOptions;
use crate::image::registry::{Login, RegistryOptions, Timing};

/// The options of every verb that talks to a registry.
#[derive(Debug, Default, clap::Args)]
pub(in crate::cli) struct RegistryArgs {
    /// Credentials for the registry of the image; by default the logins of podman and docker are used
    #[arg(long, value_name = "NAME:PASSWORD")]
    creds: Option<String>,
    /// File with logins, instead of those that podman and docker keep
    #[arg(long, value_name = "FILE")]
    authfile: Option<PathBuf>,
    /// Directory with certificates for the registry: *.crt are trusted, *.cert and *.key identify the client
    #[arg(long, value_name = "DIR")]
    cert_dir: Option<PathBuf>,
    /// With false, accept any certificate of the registry, or plain HTTP
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tls_verify: Option<bool>,
    /// Directory of hosts.toml files in containerd's format, instead of the usual ones
    #[arg(long, value_name = "DIR")]
    hosts_dir: Option<PathBuf>,
    /// File with the policy for images, instead of /etc/coracle/policy.json or /etc/containers/policy.json
    #[arg(long, value_name = "FILE")]
    signature_policy: Option<PathBuf>,
    /// Directory of verifier programs that are asked about each image, as in containerd
    #[arg(long, value_name = "DIR")]
    verifier_dir: Option<PathBuf>,
    /// Path of registries.conf
    #[arg(long, value_name = "FILE", hide = true)]
    registries_conf: Option<PathBuf>,
    /// Path of K3s's registries.yaml
    #[arg(long, value_name = "FILE", hide = true)]
    k3s_registries: Option<PathBuf>,
    /// Seconds to wait for a connection
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    connect_timeout: Option<Duration>,
    /// Seconds to wait for the next bytes; a whole transfer has no limit
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    progress_timeout: Option<Duration>,
    /// Tries without any progress before giving up
    #[arg(long, value_name = "NUMBER")]
    retry: Option<u32>,
    /// Seconds before the second try, doubled before each further one
    #[arg(long, value_name = "SECONDS", value_parser = seconds_or_none)]
    retry_delay: Option<Duration>,
}

impl RegistryArgs {
    /// Converts the options to the configuration of the registry client.
    ///
    /// # Errors
    /// `Invalid` when the credentials are malformed.
    pub(in crate::cli) fn options(&self) -> Result<RegistryOptions> {
        let usual = RegistryOptions::default();
        let timing = Timing {
            connect: self.connect_timeout.unwrap_or(usual.timing.connect),
            progress: self.progress_timeout.unwrap_or(usual.timing.progress),
            backoff: self.retry_delay.unwrap_or(usual.timing.backoff),
            tries: self.retry.unwrap_or(usual.timing.tries).max(1),
        };
        Ok(RegistryOptions {
            login: self.creds.as_deref().map(Login::parse).transpose()?,
            auth_file: self.authfile.clone(),
            cert_dir: self.cert_dir.clone(),
            tls_verify: self.tls_verify,
            hosts_dirs: self.hosts_dir.clone().map_or(usual.hosts_dirs, |dir| vec![dir]),
            registries_conf: self.registries_conf.clone().or_else(from_env).unwrap_or(usual.registries_conf),
            k3s_registries: self.k3s_registries.clone().unwrap_or(usual.k3s_registries),
            timing,
            ..usual
        })
    }
}

impl RegistryArgs {
    /// The policy for images.
    pub(in crate::cli) fn policy(&self) -> PolicyOptions {
        let usual = PolicyOptions::default();
        PolicyOptions {
            file: self.signature_policy.clone(),
            verifiers: self.verifier_dir.clone().unwrap_or(usual.verifiers),
        }
    }
}

/// The environment variable that podman and skopeo use too.
fn from_env() -> Option<PathBuf> {
    std::env::var_os("CONTAINERS_REGISTRIES_CONF").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Parses a time limit, which is at least a moment.
fn seconds(text: &str) -> Result<Duration> {
    let value = seconds_or_none(text)?;
    if value.is_zero() { Err(Error::invalid("0 seconds are no time to wait")) } else { Ok(value) }
}

fn seconds_or_none(text: &str) -> Result<Duration> {
    let value = text.parse().ok().and_then(|value| Duration::try_from_secs_f64(value).ok());
    value.ok_or_else(|| Error::invalid(format!("{text:?} is not a number of seconds")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_may_be_zero_and_a_limit_may_not() {
        assert_eq!(seconds_or_none("0").unwrap(), Duration::ZERO);
        assert_eq!(seconds_or_none("0.5").unwrap(), Duration::from_millis(500));
        assert!(seconds("0").is_err() && seconds("1").is_ok());
        for bad in ["", "-1", "x", "NaN", "inf", "1e300"] {
            assert!(seconds_or_none(bad).is_err(), "{bad}");
        }
    }
}
