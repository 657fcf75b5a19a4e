//! `[metrics]`: where metrics are served.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Config;

/// Where containerd listens, and so where cAdvisor looks for it.
const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// Metrics, for kubelet and for Prometheus.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Where cAdvisor in kubelet asks for the labels of containers.
    pub containerd_socket: ContainerdPath,
    /// Where the daemon serves metrics of its own.
    pub listen: Listen,
}

/// Where cAdvisor in kubelet asks for the labels of containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ContainerdPath {
    /// At containerd's path, if this is the node's daemon: a second one, with a run directory of its own, is none.
    #[default]
    Auto,
    /// Nowhere.
    Off,
    /// At this path.
    Path(PathBuf),
}

/// Where the daemon serves metrics of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Listen {
    /// Nowhere.
    #[default]
    Off,
    /// On a TCP port.
    Tcp(SocketAddr),
    /// On a unix socket.
    Unix(PathBuf),
}

impl TryFrom<String> for ContainerdPath {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            path if Path::new(path).is_absolute() => Ok(Self::Path(path.into())),
            _ => Err(format!("{text:?} is neither \"auto\" nor \"off\" nor an absolute path")),
        }
    }
}

impl TryFrom<String> for Listen {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        if let Some(path) = text.strip_prefix("unix:").filter(|path| Path::new(path).is_absolute()) {
            return Ok(Self::Unix(path.into()));
        }
        let example = "\"off\", an address such as \"127.0.0.1:9345\", or \"unix:\" and an absolute path";
        text.parse().map(Self::Tcp).map_err(|_| format!("{text:?} is none of {example}"))
    }
}

impl fmt::Display for ContainerdPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Off => f.write_str("off"),
            Self::Path(path) => path.display().fmt(f),
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl From<ContainerdPath> for String {
    fn from(path: ContainerdPath) -> Self {
        path.to_string()
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.to_string()
    }
}

impl Config {
    /// The socket where cAdvisor asks for the labels of containers, if there is to be one.
    pub fn containerd_socket(&self) -> Option<PathBuf> {
        match &self.metrics.containerd_socket {
            ContainerdPath::Auto => {
                (self.run == Path::new(crate::keeper::RUN)).then(|| PathBuf::from(CONTAINERD))
            }
            ContainerdPath::Off => None,
            ContainerdPath::Path(path) => Some(path.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for text in ["off", "127.0.0.1:9345", "[::1]:80", "unix:/run/coracle/metrics.sock"] {
            assert_eq!(Listen::try_from(text.to_owned()).unwrap().to_string(), text);
        }
        for text in ["auto", "off", "/run/containerd/containerd.sock"] {
            assert_eq!(ContainerdPath::try_from(text.to_owned()).unwrap().to_string(), text);
        }
        for bad in ["", "on", "localhost:80", "127.0.0.1", "unix:metrics.sock", "unix:", ":9345"] {
            assert!(Listen::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        for bad in ["", "on", "containerd.sock", "unix:///run/containerd/containerd.sock"] {
            assert!(ContainerdPath::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_the_daemon_of_the_node_takes_the_path_of_containerd() {
        let node = Config::default();
        assert_eq!(node.containerd_socket(), Some(CONTAINERD.into()));
        let second = Config { run: "/run/second".into(), ..Config::default() };
        assert_eq!(second.containerd_socket(), None);
    }
}
