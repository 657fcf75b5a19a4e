//! The configuration of `coracle serve`, with its defaults.
//!
//! `default.toml` documents each key; `coracle config --default` prints it, and packages ship it.

mod metrics;
mod read;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::image::policy::PolicyOptions;
use crate::image::pull::PullOptions;
use crate::image::registry::{RegistryOptions, Timing};
use crate::net::cni;

pub use metrics::{ContainerdPath, Listen, Metrics};
pub use read::{load, to_toml};

/// The default configuration file.
pub const FILE: &str = "/etc/coracle/config.toml";

/// The documented configuration file: every key with its default, commented out.
pub const DEFAULT: &str = include_str!("default.toml");

/// The configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The socket that kubelet connects to.
    #[serde(deserialize_with = "read::absolute")]
    pub socket: PathBuf,
    /// Records of pods and containers, pinned namespaces, the keeper's socket.
    #[serde(deserialize_with = "read::absolute")]
    pub run: PathBuf,
    /// The state directory of the OCI verbs (`--root`).
    #[serde(deserialize_with = "read::absolute")]
    pub root: PathBuf,
    /// The image store and the writable layers.
    #[serde(deserialize_with = "read::absolute")]
    pub store: PathBuf,
    /// Keep writable layers below `run`.
    pub state_on_tmpfs: bool,
    /// Who creates the cgroups of containers.
    pub cgroup_driver: CgroupDriver,
    /// How many calls run at a time.
    #[serde(deserialize_with = "read::calls")]
    pub max_parallel_calls: u32,
    /// The server for exec, attach and port-forward.
    pub streaming: Streaming,
    /// Default confinement of containers.
    pub security: Security,
    /// Settings for images.
    pub images: Images,
    /// Access to registries, and the policy for pulled images.
    pub registry: Registry,
    /// The networks of pods.
    pub cni: Cni,
    /// Metrics, for kubelet and for Prometheus.
    pub metrics: Metrics,
    /// Runtime handlers by name, without the default one (`""`).
    pub handlers: BTreeMap<String, Handler>,
}

/// Who creates the cgroups of containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// systemd where it is process 1, else cgroupfs.
    #[default]
    Auto,
    /// systemd creates scopes.
    Systemd,
    /// Coracle creates directories.
    Cgroupfs,
}

impl CgroupDriver {
    /// Whether systemd creates the cgroups. The rule is that of K3s (`INVOCATION_ID`, or systemd as process 1), because kubelet
    /// must use the same driver.
    pub fn is_systemd(self) -> bool {
        match self {
            Self::Auto => {
                Path::new("/run/systemd/system").is_dir() && std::env::var_os("INVOCATION_ID").is_some()
                    || std::fs::read_to_string("/proc/1/comm").is_ok_and(|name| name.trim() == "systemd")
            }
            Self::Systemd => true,
            Self::Cgroupfs => false,
        }
    }
}

/// The server for exec, attach and port-forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Streaming {
    /// Where it listens; port 0 is a free port.
    pub address: SocketAddr,
    /// The certificate chain, in PEM form: then the server speaks only TLS.
    #[serde(deserialize_with = "read::some_absolute")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM form.
    #[serde(deserialize_with = "read::some_absolute")]
    pub tls_key: Option<PathBuf>,
    /// The authorities of clients' certificates, in PEM form: then clients without one are refused.
    #[serde(deserialize_with = "read::some_absolute")]
    pub tls_client_ca: Option<PathBuf>,
}

impl Default for Streaming {
    fn default() -> Self {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self { address, tls_cert: None, tls_key: None, tls_client_ca: None }
    }
}

/// Default confinement of containers, where kubelet leaves it to the runtime.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Security {
    /// Apply the runtime's default seccomp profile to containers that request it.
    pub seccomp: bool,
    /// Apply the runtime's default AppArmor profile to containers that request it.
    pub apparmor: bool,
    /// Set SELinux labels.
    pub selinux: bool,
    /// Let every user in a pod with its own network listen on ports below 1024.
    pub unprivileged_ports: bool,
    /// Let every user in a pod with its own network open ICMP echo sockets (ping).
    pub unprivileged_icmp: bool,
}

/// Settings for images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Images {
    /// Names or ids of images that are reported as pinned; a final `*` matches any suffix.
    pub pinned: Vec<String>,
    /// Directories whose archives are imported when the daemon starts, on a reload, and when they arrive.
    #[serde(deserialize_with = "read::absolutes")]
    pub import_dirs: Vec<PathBuf>,
    /// A pull that receives nothing for this long is cancelled.
    #[serde(deserialize_with = "read::seconds")]
    pub progress_timeout_seconds: u64,
}

/// Access to registries, and the policy for pulled images; see [`RegistryOptions`] and [`PolicyOptions`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "as in RegistryOptions, PolicyOptions and Timing")]
pub struct Registry {
    #[serde(deserialize_with = "read::absolutes")]
    pub hosts_dirs: Vec<PathBuf>,
    #[serde(deserialize_with = "read::absolute")]
    pub registries_conf: PathBuf,
    #[serde(deserialize_with = "read::absolute")]
    pub k3s_registries: PathBuf,
    #[serde(deserialize_with = "read::some_absolute")]
    pub auth_file: Option<PathBuf>,
    #[serde(deserialize_with = "read::some_absolute")]
    pub policy: Option<PathBuf>,
    #[serde(deserialize_with = "read::absolute")]
    pub verifiers: PathBuf,
    #[serde(deserialize_with = "read::seconds")]
    pub connect_timeout_seconds: u64,
    #[serde(deserialize_with = "read::seconds")]
    pub read_timeout_seconds: u64,
    #[serde(deserialize_with = "read::tries")]
    pub tries: u32,
}

/// The networks of pods; see [`cni::Settings`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cni {
    /// Directories with CNI configurations.
    #[serde(deserialize_with = "read::absolutes")]
    pub conf_dirs: Vec<PathBuf>,
    /// Directories with CNI plugins.
    #[serde(deserialize_with = "read::absolutes")]
    pub bin_dirs: Vec<PathBuf>,
    /// The directory of attachment records; `cni` below [`Config::store`] by default: they survive a reboot.
    #[serde(deserialize_with = "read::some_absolute")]
    pub records: Option<PathBuf>,
    /// How long one plugin may take.
    #[serde(deserialize_with = "read::seconds")]
    pub plugin_timeout_seconds: u64,
}

/// A runtime handler, which a RuntimeClass may name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Handler {
    /// The kind of its containers.
    pub kind: HandlerKind,
}

/// The kind of a handler's containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandlerKind {
    /// Ordinary containers.
    #[default]
    Coracle,
    /// Containers that get the GPUs named by NVIDIA_VISIBLE_DEVICES.
    Nvidia,
}

impl Default for Config {
    fn default() -> Self {
        let coracle = ["coracle", "runc", "crun"].map(|name| (name.to_owned(), Handler::default()));
        let nvidia = ("nvidia".to_owned(), Handler { kind: HandlerKind::Nvidia });
        Self {
            socket: "/run/coracle/coracle.sock".into(),
            run: crate::keeper::RUN.into(),
            root: "/run/coracle/containers".into(),
            store: "/var/lib/coracle".into(),
            state_on_tmpfs: false,
            cgroup_driver: CgroupDriver::Auto,
            max_parallel_calls: 32,
            streaming: Streaming::default(),
            security: Security::default(),
            images: Images::default(),
            registry: Registry::default(),
            cni: Cni::default(),
            metrics: Metrics::default(),
            handlers: coracle.into_iter().chain([nvidia]).collect(),
        }
    }
}

impl Default for Security {
    fn default() -> Self {
        Self {
            seccomp: true,
            apparmor: true,
            selinux: false,
            unprivileged_ports: true,
            unprivileged_icmp: true,
        }
    }
}

impl Default for Images {
    fn default() -> Self {
        Self {
            pinned: Vec::new(),
            import_dirs: vec!["/var/lib/rancher/k3s/agent/images".into()],
            progress_timeout_seconds: 300,
        }
    }
}

impl Default for Registry {
    fn default() -> Self {
        let (usual, policy) = (RegistryOptions::default(), PolicyOptions::default());
        Self {
            hosts_dirs: usual.hosts_dirs,
            registries_conf: usual.registries_conf,
            k3s_registries: usual.k3s_registries,
            auth_file: usual.auth_file,
            policy: policy.file,
            verifiers: policy.verifiers,
            connect_timeout_seconds: usual.timing.connect.as_secs(),
            read_timeout_seconds: usual.timing.progress.as_secs(),
            tries: usual.timing.tries,
        }
    }
}

impl Default for Cni {
    fn default() -> Self {
        let usual = cni::Settings::default();
        Self {
            conf_dirs: usual.configurations,
            bin_dirs: usual.plugins,
            records: None,
            plugin_timeout_seconds: usual.patience.as_secs(),
        }
    }
}

impl Config {
    /// The networks of pods.
    pub fn cni_settings(&self) -> cni::Settings {
        cni::Settings {
            configurations: self.cni.conf_dirs.clone(),
            plugins: self.cni.bin_dirs.clone(),
            records: self.cni.records.clone().unwrap_or_else(|| self.store.join("cni")),
            patience: Duration::from_secs(self.cni.plugin_timeout_seconds),
        }
    }

    /// The options for pulls without credentials.
    pub fn pull_options(&self) -> PullOptions {
        let (registry, usual) = (&self.registry, Timing::default());
        PullOptions {
            registry: RegistryOptions {
                auth_file: registry.auth_file.clone(),
                hosts_dirs: registry.hosts_dirs.clone(),
                registries_conf: registry.registries_conf.clone(),
                k3s_registries: registry.k3s_registries.clone(),
                timing: Timing {
                    connect: Duration::from_secs(registry.connect_timeout_seconds),
                    progress: Duration::from_secs(registry.read_timeout_seconds),
                    tries: registry.tries,
                    ..usual
                },
                ..RegistryOptions::default()
            },
            policy: PolicyOptions { file: registry.policy.clone(), verifiers: registry.verifiers.clone() },
            ..PullOptions::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The documented file with its commented-out defaults enabled.
    fn taken() -> toml::Table {
        let is_key = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
        let lines = DEFAULT.lines().map(|line| if is_key(line) { &line[1..] } else { line });
        lines.collect::<Vec<_>>().join("\n").parse().unwrap()
    }

    #[test]
    fn the_documented_file_has_every_key_with_its_default() {
        let mut documented: Config = taken().try_into().unwrap();
        // These have no default; the file shows examples.
        (documented.registry.auth_file, documented.registry.policy) = (None, None);
        let address = documented.streaming.address;
        documented.streaming = Streaming { address, ..Streaming::default() };
        assert_eq!(documented.cni.records.take(), Some(documented.store.join("cni")));
        assert_eq!(documented, Config::default());
        fn keys(table: &toml::Table, prefix: &str) -> Vec<String> {
            let inner = |(key, value): (&String, &toml::Value)| match value {
                toml::Value::Table(table) => keys(table, &format!("{prefix}{key}.")),
                _ => vec![format!("{prefix}{key}")],
            };
            table.iter().flat_map(inner).collect()
        }
        let documented = keys(&taken(), "");
        let all = keys(&toml::Table::try_from(Config::default()).unwrap(), "");
        let missing: Vec<_> = all.iter().filter(|key| !documented.contains(key)).collect();
        assert!(missing.is_empty(), "not in default.toml: {missing:?}");
    }

    #[test]
    fn the_documented_file_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.toml");
        std::fs::write(&file, DEFAULT).unwrap();
        assert_eq!(load(&file, true).unwrap(), Config::default());
        assert_eq!(load(&dir.path().join("none.toml"), false).unwrap(), Config::default());
    }

    #[test]
    fn what_is_printed_can_be_read() {
        let config = Config { max_parallel_calls: 9, ..Config::default() };
        assert_eq!(toml::from_str::<Config>(&to_toml(&config).unwrap()).unwrap(), config);
    }
}
