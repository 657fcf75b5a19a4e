//! Any JSON as a network's configuration and as the result of its plugins: refused, or names that stay in their directory
//! and addresses that are some.
#![no_main]

use coracle::net::cni::{Network, AttachResult};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else { return };
    if let Ok(outcome) = AttachResult::of(&value, "eth0") {
        assert!(outcome.addresses.len() <= bytes.len());
    }
    if let Ok(network) = Network::parse(value) {
        assert!(!network.name().contains(['/', '\0']) && !network.name().starts_with('.'));
    }
});
