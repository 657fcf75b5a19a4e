//! A pod's network: host name, DNS, ports, bandwidth, sysctls.

use std::collections::BTreeMap;
use std::net::IpAddr;

use coracle_cri::v1;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::spec::request::{NamespaceScopes, Scope};

/// A port of the node that is forwarded to a port of the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRequest {
    /// TCP, UDP or SCTP.
    pub protocol: PortProtocol,
    /// The node's port, not 0.
    pub host_port: u16,
    /// The pod's port, not 0.
    pub container_port: u16,
    /// The node's address; none for all addresses.
    pub host_ip: Option<IpAddr>,
}

/// The protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PortProtocol {
    /// TCP
    Tcp,
    /// UDP
    Udp,
    /// SCTP
    Sctp,
}

/// Bandwidth limits of a pod, in bits per second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TrafficLimits {
    /// Into the pod: `kubernetes.io/ingress-bandwidth`.
    pub ingress: Option<u64>,
    /// Out of the pod: `kubernetes.io/egress-bandwidth`.
    pub egress: Option<u64>,
}

impl TrafficLimits {
    /// Parses the two annotations.
    ///
    /// # Errors
    /// `Invalid` for a value that is not a quantity between 1k and 1P, which are kubelet's limits.
    pub fn of(annotations: &BTreeMap<String, String>) -> Result<Self> {
        let limit = |key: &str| annotations.get(key).map(|text| rate(key, text)).transpose();
        Ok(Self {
            ingress: limit("kubernetes.io/ingress-bandwidth")?,
            egress: limit("kubernetes.io/egress-bandwidth")?,
        })
    }
}

fn rate(key: &str, text: &str) -> Result<u64> {
    let bits = quantity(text).filter(|bits| (1_000.0..=1e15).contains(bits));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    bits.map(|bits| bits as u64)
        .ok_or_else(|| Error::invalid(format!("{key} {text:?} is not a quantity between 1k and 1P")))
}

/// A Kubernetes quantity: a decimal number with a suffix of powers of 1000 or 1024, or an exponent.
fn quantity(text: &str) -> Option<f64> {
    let is_number = |c: char| c.is_ascii_digit() || c == '.';
    let digits = text.find(|c| !is_number(c)).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let scale = match suffix {
        "" => 1.0,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        _ => 10_f64.powi(suffix.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number * scale)
}

/// The port mappings; those without a host port have no effect.
pub(super) fn ports(mappings: &[v1::PortMapping]) -> Result<Vec<PortRequest>> {
    mappings.iter().filter(|m| m.host_port != 0).map(port_mapping).collect()
}

fn port_mapping(mapping: &v1::PortMapping) -> Result<PortRequest> {
    let port = |field: &str, value: i32| {
        u16::try_from(value).ok().filter(|p| *p != 0).ok_or_else(|| {
            Error::invalid(format!("port_mappings.{field} {value} is not between 1 and 65535"))
        })
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(
            text.parse()
                .map_err(|_| Error::invalid(format!("port_mappings.host_ip {text:?} is not an address")))?,
        ),
    };
    Ok(PortRequest {
        protocol: match v1::Protocol::try_from(mapping.protocol) {
            Ok(v1::Protocol::Tcp) => PortProtocol::Tcp,
            Ok(v1::Protocol::Udp) => PortProtocol::Udp,
            Ok(v1::Protocol::Sctp) => PortProtocol::Sctp,
            Err(_) => return Err(Error::invalid("port_mappings.protocol is neither TCP nor UDP nor SCTP")),
        },
        host_port: port("host_port", mapping.host_port)?,
        container_port: port("container_port", mapping.container_port)?,
        host_ip,
    })
}

/// The host name of a pod; none with the node's network, where the node's host name applies.
pub(super) fn hostname(name: &str, own_network: bool) -> Result<Option<String>> {
    // HOST_NAME_MAX of sethostname(2).
    const LONGEST: usize = 64;
    if name.len() > LONGEST || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)) {
        return Err(Error::invalid(format!(
            "hostname {name:?} is not a host name of at most {LONGEST} bytes"
        )));
    }
    Ok(Some(name.to_owned()).filter(|n| own_network && !n.is_empty()))
}

/// The text of resolv.conf(5); none when the configuration is empty, which means the node's.
pub(super) fn resolv_conf(dns: &v1::DnsConfig) -> Result<Option<String>> {
    let all = [&dns.servers, &dns.searches, &dns.options];
    if let Some(bad) = all.into_iter().flatten().find(|t| t.is_empty() || t.contains(char::is_whitespace)) {
        return Err(Error::invalid(format!("dns_config: {bad:?} is not one word")));
    }
    let mut text = String::new();
    if !dns.searches.is_empty() {
        text.push_str(&format!("search {}\n", dns.searches.join(" ")));
    }
    for server in &dns.servers {
        text.push_str(&format!("nameserver {server}\n"));
    }
    if !dns.options.is_empty() {
        text.push_str(&format!("options {}\n", dns.options.join(" ")));
    }
    Ok(Some(text).filter(|t| !t.is_empty()))
}

/// The path of a sysctl below /proc/sys. As in sysctl(8) the first separator decides: where it is a dot, dots
/// separate directories and a slash stands for a dot in a name (`net.ipv4.conf.eth0/1.forwarding`); where it is a slash,
/// the name is the path.
pub(in crate::pod) fn sysctl_path(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match (name.find('.'), name.find('/')) {
        (Some(dot), slash) if slash.is_none_or(|slash| dot < slash) => name.chars().map(swap).collect(),
        _ => name.to_owned(),
    }
}

/// Refuses sysctls that do not belong to a namespace of the pod, because they would change the node.
pub(super) fn check_sysctls(sysctls: &BTreeMap<String, String>, namespaces: &NamespaceScopes) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
    ];
    for key in sysctls.keys() {
        let path = sysctl_path(key);
        if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
            return Err(Error::invalid(format!("sysctl {key:?} is not the name of a kernel parameter")));
        }
        let owner = if path.starts_with("net/") || path == "kernel/domainname" {
            Some(("network", &namespaces.network))
        } else if path.starts_with("fs/mqueue/") || IPC.contains(&path.as_str()) {
            Some(("ipc", &namespaces.ipc))
        } else {
            None
        };
        match owner {
            None => return Err(Error::invalid(format!("sysctl {key:?} would change the node, not the pod"))),
            Some((kind, Scope::Host)) => {
                return Err(Error::invalid(format!(
                    "sysctl {key:?} would change the node: the pod has the node's {kind} namespace"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
