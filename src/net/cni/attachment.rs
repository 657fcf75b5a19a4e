//! The request to attach a network namespace.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// A network namespace to attach, and the parameters for the plugins.
#[derive(Debug, Clone, Default)]
pub struct Attachment {
    /// The id of the container or pod.
    pub container: String,
    /// The file of the namespace.
    pub namespace: PathBuf,
    /// The interface to create in it, `eth0` for a pod.
    pub interface: String,
    /// The keys and values of `CNI_ARGS`, such as `K8S_POD_NAME`.
    pub args: BTreeMap<String, String>,
    /// Parameters for those plugins that have the capability.
    pub capabilities: Capabilities,
}

/// The values that a plugin gets in `runtimeConfig` if its configuration lists the capability.
#[derive(Debug, Clone, Default)]
pub struct Capabilities {
    /// `portMappings`
    pub ports: Vec<PortMapping>,
    /// `bandwidth`
    pub bandwidth: Bandwidth,
    /// `ips`: addresses with their prefix length.
    pub ips: Vec<String>,
    /// `mac`
    pub mac: Option<String>,
    /// `dns`
    pub dns: Option<Dns>,
    /// `aliases`: names in the network.
    pub aliases: Vec<String>,
    /// Other capabilities, by name.
    pub others: BTreeMap<String, Value>,
}

/// A port of the host that is forwarded to a port of the container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortMapping {
    /// `tcp`, `udp` or `sctp`
    pub protocol: &'static str,
    /// The host's port.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// The host's address to listen on; all addresses if `None`.
    pub host_ip: Option<IpAddr>,
}

/// Limits in bits per second; `None` means no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bandwidth {
    /// Into the container.
    pub ingress: Option<u64>,
    /// Out of the container.
    pub egress: Option<u64>,
}

/// The resolver configuration of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Addresses of name servers.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Options of resolv.conf(5).
    pub options: Vec<String>,
}

impl Attachment {
    /// Refuses names that plugins, the kernel or a file name would not accept.
    pub(super) fn check(&self) -> Result<()> {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
        let id = &self.container;
        if !id.starts_with(|c: char| c.is_ascii_alphanumeric()) || !id.bytes().all(is_name) || id.len() > 128
        {
            return Err(Error::invalid(format!("{id:?} cannot be the id of a container in a network")));
        }
        // IFNAMSIZ of netdevice(7), including its NUL.
        let name = &self.interface;
        let is_interface = |c: char| !c.is_whitespace() && c != '/' && c != ':' && c != '\0';
        if name.is_empty()
            || name.len() > 15
            || name == "."
            || name == ".."
            || !name.chars().all(is_interface)
        {
            return Err(Error::invalid(format!("{name:?} cannot be the name of an interface")));
        }
        let bad = |text: &String| text.contains([';', '=', '\0']);
        match self.args.iter().find(|(key, value)| key.is_empty() || bad(key) || bad(value)) {
            Some((key, value)) => {
                Err(Error::invalid(format!("CNI argument {key:?}: {value:?} cannot be passed")))
            }
            None => Ok(()),
        }
    }

    /// The text of `CNI_ARGS`.
    pub(super) fn args_text(args: &BTreeMap<String, String>) -> String {
        args.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(";")
    }
}

impl Capabilities {
    /// The values by name; unset ones are left out.
    pub(super) fn values(&self) -> Map<String, Value> {
        let mut all: Map<String, Value> = self.others.clone().into_iter().collect();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                all.insert(name.to_owned(), value);
            }
        };
        let some = |list: &[String]| (!list.is_empty()).then(|| json!(list));
        set(
            "portMappings",
            (!self.ports.is_empty()).then(|| self.ports.iter().map(PortMapping::value).collect()),
        );
        set("bandwidth", self.bandwidth.value());
        set("ips", some(&self.ips));
        set("mac", self.mac.as_ref().map(|mac| json!(mac)));
        set("aliases", some(&self.aliases));
        set(
            "dns",
            self.dns
                .as_ref()
                .map(|d| json!({ "servers": d.servers, "searches": d.searches, "options": d.options })),
        );
        all
    }
}

impl PortMapping {
    fn value(&self) -> Value {
        json!({
            "hostPort": self.host_port,
            "containerPort": self.container_port,
            "protocol": self.protocol,
            "hostIP": self.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
        })
    }
}

impl Bandwidth {
    /// With the largest burst that the plugin accepts, because the request has none.
    fn value(self) -> Option<Value> {
        let mut limits = Map::new();
        for (name, rate) in [("ingress", self.ingress), ("egress", self.egress)] {
            if let Some(rate) = rate {
                limits.insert(format!("{name}Rate"), json!(rate));
                limits.insert(format!("{name}Burst"), json!(i32::MAX));
            }
        }
        (!limits.is_empty()).then_some(Value::Object(limits))
    }
}
