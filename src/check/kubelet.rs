//! kubelet's configuration, where it has a file: that of K3s is in its own command line.

use super::{Row, Tree};
use crate::serve::config::Config;

/// Where kubeadm puts it.
const FILE: &str = "/var/lib/kubelet/config.yaml";

pub(super) fn rows(tree: &Tree, config: &Config) -> Vec<Row> {
    let Some(text) = tree.text(FILE) else {
        return vec![Row::not_applicable("kubelet", format!("there is no {FILE}"))];
    };
    let yaml = match crate::yaml::load_as_text(&text) {
        Ok(yaml) => yaml,
        Err(error) => {
            return vec![Row::error("kubelet", format!("{FILE}: {}", crate::pod::one_line(&error)))];
        }
    };
    let text = |key: &str| yaml[key].as_str().unwrap_or_default();
    let driver = if config.cgroup_driver.is_systemd() { "systemd" } else { "cgroupfs" };
    let own = format!("unix://{}", config.socket.display());
    let is_v1 = !tree.has("/sys/fs/cgroup/cgroup.controllers");
    let has_swap = tree.text("/proc/swaps").is_some_and(|swaps| swaps.lines().count() > 1);
    let mut rows = Vec::new();
    if text("containerRuntimeEndpoint") != own {
        rows.push(
            Row::warning(
                "kubelet",
                format!("containerRuntimeEndpoint is {:?}", text("containerRuntimeEndpoint")),
            )
            .advise(format!("set `containerRuntimeEndpoint: {own}` in {FILE}, unless a flag does")),
        );
    }
    if !text("cgroupDriver").is_empty() && text("cgroupDriver") != driver {
        rows.push(
            Row::error(
                "kubelet",
                format!("cgroupDriver is {}, and Coracle's is {driver}", text("cgroupDriver")),
            )
            .advise(format!(
                "set `cgroupDriver: {driver}` in {FILE}, or cgroup_driver in Coracle's configuration"
            )),
        );
    }
    if is_v1 && text("failCgroupV1") != "false" {
        rows.push(
            Row::warning("kubelet", "this machine has cgroup v1, which kubelet 1.35 and newer refuses")
                .advise(format!("set `failCgroupV1: false` in {FILE}, or boot with cgroup v2")),
        );
    }
    if has_swap && text("failSwapOn") != "false" {
        rows.push(
            Row::error("kubelet", "swap is on, with which kubelet refuses to start")
                .advise(format!("set `failSwapOn: false` in {FILE}, or swapoff -a")),
        );
    }
    if rows.is_empty() {
        rows.push(Row::ok("kubelet", format!("{FILE} fits")));
    }
    rows
}
