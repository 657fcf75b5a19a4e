//! What plugins answer to ADD.

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Doing, Result};

/// The addresses an interface got.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Addresses inside, in the plugins' order: the first is the main one.
    pub addresses: Vec<IpAddr>,
}

/// The parts of a result that all versions since 0.3 have. SPEC(cni 1.1.0 #add-success)
#[derive(Deserialize)]
struct Answer {
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

impl Outcome {
    /// Reads the last plugin's result: addresses of the interface of this name inside, and those of no interface.
    ///
    /// # Errors
    /// It is not as the specification has it, or names an address that is none.
    pub fn of(result: &Value, name: &str) -> Result<Self> {
        let doing = || "understand the result of the network plugins";
        if !result.is_object() {
            return Err(crate::error::Error::invalid("it is no JSON object").doing(doing()));
        }
        let answer = Answer::deserialize(result).doing(doing)?;
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
