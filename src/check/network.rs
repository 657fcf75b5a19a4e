//! The network of pods: CNI, packet filter, bridges, forwarding.

use std::path::PathBuf;

use super::{Row, Tree};
use crate::error::Kind;
use crate::net::cni::Cni;
use crate::serve::config::Config;

pub(super) fn rows(tree: &Tree, config: &Config) -> Vec<Row> {
    vec![cni(tree, config), filter(tree), modules(tree), forwarding(tree)]
}

fn cni(tree: &Tree, config: &Config) -> Row {
    let below = |paths: &[PathBuf]| paths.iter().filter_map(|path| tree.path(path).ok()).collect();
    let mut settings = config.cni_settings();
    settings.configurations = below(&settings.configurations);
    settings.plugins = below(&settings.plugins);
    let cni = Cni::new(settings);
    match cni.network().and_then(|network| Ok((network, cni.status()?))) {
        Ok((network, ())) => Row::ok("CNI", format!("the network {} is ready", network.name())),
        Err(error) if error.kind() == Kind::NotFound => Row::warning("CNI", crate::pod::one_line(&error))
            .advise("K3s, MicroK8s and network add-ons write a configuration when they start; for another cluster install one, and its plugins"),
        Err(error) => Row::error("CNI", crate::pod::one_line(&error))
            .advise("correct the configuration, or install the plugin that it names"),
    }
}

fn filter(tree: &Tree) -> Row {
    match tree.program(&["nft", "iptables", "iptables-nft", "iptables-legacy"]) {
        Some(program) => Row::ok("packet filter", format!("{} is installed", program.display())),
        None => Row::warning(
            "packet filter",
            "neither nft nor iptables was found, which services and hostPort need",
        )
        .advise("install nftables or iptables; K3s brings its own"),
    }
}

/// A module that networks need, and what for.
const MODULES: [(&str, &str); 3] = [
    ("br_netfilter", "services that are used from pods of the same node"),
    ("vxlan", "flannel and calico between nodes"),
    ("nf_conntrack", "services and hostPort"),
];

fn modules(tree: &Tree) -> Row {
    let missing: Vec<_> = MODULES.iter().filter(|(name, _)| !is_available(tree, name)).collect();
    if missing.is_empty() {
        return Row::ok("modules", "br_netfilter, vxlan and nf_conntrack are there or can be loaded");
    }
    let list: Vec<_> = missing.iter().map(|(name, what_for)| format!("{name} ({what_for})")).collect();
    let release = tree.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let advice = match release.contains("raspi") {
        true => "install linux-modules-extra-raspi".to_owned(),
        false => format!("install the kernel's modules for {release}, or build it with them"),
    };
    Row::warning("modules", format!("missing: {}", list.join(", "))).advise(advice)
}

/// Whether a module is loaded, built in, or can be loaded.
fn is_available(tree: &Tree, name: &str) -> bool {
    let release = tree.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let lists = ["modules.builtin", "modules.dep"];
    let is_listed = |list: &str| {
        let text = tree.text(format!("/lib/modules/{release}/{list}")).unwrap_or_default();
        let file = |line: &str| {
            line.split(':').next().and_then(|path| path.rsplit('/').next()).unwrap_or_default().to_owned()
        };
        text.lines()
            .any(|line| file(line).split(".ko").next().is_some_and(|stem| stem.replace('-', "_") == name))
    };
    tree.has(format!("/sys/module/{name}")) || lists.into_iter().any(is_listed)
}

fn forwarding(tree: &Tree) -> Row {
    if tree.number("/proc/sys/net/ipv4/ip_forward") == Some(0) {
        return Row::warning(
            "forwarding",
            "net.ipv4.ip_forward is 0, so pods reach nothing outside of the node",
        )
        .advise("sysctl -w net.ipv4.ip_forward=1, and a file in /etc/sysctl.d; K3s sets it when it starts");
    }
    match tree.number("/proc/sys/net/bridge/bridge-nf-call-iptables") {
        Some(0) => Row::warning(
            "forwarding",
            "net.bridge.bridge-nf-call-iptables is 0, so services fail between pods of one node",
        )
        .advise("sysctl -w net.bridge.bridge-nf-call-iptables=1, and a file in /etc/sysctl.d"),
        _ => Row::ok("forwarding", "packets of pods are forwarded"),
    }
}
