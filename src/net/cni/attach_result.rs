//! The result of ADD.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Doing, Result};

/// The addresses of an attached interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttachResult {
    /// Addresses inside the namespace, in the plugins' order: the first is the primary one.
    pub addresses: Vec<IpAddr>,
}

/// The parts of a result that all versions since 0.3 have. SPEC(cni 1.1.0 #add-success)
#[derive(Deserialize)]
struct AddResult {
    #[serde(default)]
    interfaces: Vec<Interface>,
    #[serde(default)]
    ips: Vec<Ip>,
}

#[derive(Deserialize)]
struct Interface {
    name: String,
    #[serde(default)]
    sandbox: String,
}

#[derive(Deserialize)]
struct Ip {
    address: String,
    interface: Option<usize>,
}

impl AttachResult {
    /// Parses the last plugin's result: the addresses of the interface `name` in the namespace, and those without an
    /// interface.
    ///
    /// # Errors
    /// When it does not follow the specification, or has an invalid address.
    pub fn of(result: &Value, name: &str) -> Result<Self> {
        let doing = || "parse the result of the network plugins";
        if !result.is_object() {
            return Err(crate::error::Error::invalid("it is no JSON object").doing(doing()));
        }
        let answer = AddResult::deserialize(result).doing(doing)?;
        let is_ours = |ip: &&Ip| match ip.interface.and_then(|i| answer.interfaces.get(i)) {
            Some(interface) => interface.name == name && !interface.sandbox.is_empty(),
            None => true,
        };
        let mut addresses = Vec::new();
        for ip in answer.ips.iter().filter(is_ours) {
            let text = ip.address.split('/').next().unwrap_or_default();
            let address = text.parse();
            addresses.push(address.map_err(|_| {
                crate::error::Error::invalid(format!("{:?} is not an address", ip.address)).doing(doing())
            })?);
        }
        Ok(Self { addresses })
    }
}
