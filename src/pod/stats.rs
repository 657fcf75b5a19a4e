//! ContainerStats and PodSandboxStats: read from cgroups and /proc on each call.

use std::path::Path;
use std::sync::Arc;

use coracle_cri::v1;

use super::container::{Container, Containers};
use super::host::Host;
use super::interfaces::{self, Interface};
use super::layer_usage::LayerUsage;
use super::machine::State;
use super::now_ns;
use super::sandbox::{INTERFACE, Sandbox};
use crate::cgroup::{self, Group, Memory, Pressure};
use crate::error::Result;

/// Reads the usage of pods and containers.
#[derive(Debug)]
pub(super) struct Stats {
    host: Arc<Host>,
    containers: Arc<Containers>,
}

impl Stats {
    pub(super) fn new(host: Arc<Host>, containers: Arc<Containers>) -> Self {
        Self { host, containers }
    }

    /// The usage of a container.
    ///
    /// # Errors
    /// Its cgroup cannot be read.
    pub(super) fn of_container(&self, container: &Container) -> Result<v1::ContainerStats> {
        let attributes = {
            let life = container.life();
            v1::ContainerAttributes {
                id: container.id.clone(),
                metadata: life.config.metadata.clone(),
                labels: life.config.labels.clone(),
                annotations: life.config.annotations.clone(),
            }
        };
        let layer = self.host.layer(&container.id)?.join("upper");
        let mut usage = v1::ContainerStats {
            attributes: Some(attributes),
            writable_layer: Some(filesystem(&container.usage, &layer, self.host.layers())),
            ..Default::default()
        };
        if container.state() == State::Running {
            let group = self.cgroup_of(container)?;
            let stats = group.stats()?;
            usage.cpu = Some(cpu(&stats, group.pressure("cpu")));
            usage.memory = Some(memory(&stats, group.pressure("memory")));
            usage.io = group.pressure("io").map(|p| v1::IoUsage { timestamp: now_ns(), psi: Some(psi(p)) });
            usage.swap = stats.memory.as_ref().and_then(swap);
        }
        Ok(usage)
    }

    /// The usage of a pod: the sum over its running containers, and its network.
    pub(super) fn of_sandbox(&self, sandbox: &Sandbox) -> v1::PodSandboxStats {
        let mut parts = Vec::new();
        for container in self.containers.in_pod(&sandbox.id) {
            // A container that exits in the meantime uses nothing.
            if container.state() == State::Running
                && let Ok(stats) = self.of_container(&container)
            {
                parts.push((container, stats));
            }
        }
        let processes = parts.iter().map(|(container, _)| self.process_count(container)).sum();
        let stats: Vec<_> = parts.into_iter().map(|(_, stats)| stats).collect();
        v1::PodSandboxStats {
            attributes: Some(v1::PodSandboxAttributes {
                id: sandbox.id.clone(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(v1::LinuxPodSandboxStats {
                cpu: Some(sum_cpu(&stats)),
                memory: Some(sum_memory(&stats)),
                network: network(sandbox),
                process: Some(v1::ProcessUsage { timestamp: now_ns(), process_count: value(processes) }),
                containers: stats,
                ..Default::default()
            }),
            windows: None,
        }
    }

    /// Counts processes by cgroup.procs: the pids controller counts threads, and exists only where a limit is set.
    fn process_count(&self, container: &Container) -> u64 {
        self.cgroup_of(container).and_then(|group| group.pids()).map_or(0, |pids| pids.len() as u64)
    }

    fn cgroup_of(&self, container: &Container) -> Result<Group> {
        Group::from_paths(&self.host.oci_state(&container.id)?.cgroup_paths)
    }
}

/// An optional number of a CRI message.
fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn cpu(stats: &cgroup::Stats, pressure: Option<Pressure>) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: now_ns(),
        usage_core_nano_seconds: stats.cpu.and_then(|cpu| value(cpu.usage_ns)),
        usage_nano_cores: None,
        psi: pressure.map(psi),
    }
}

fn memory(stats: &cgroup::Stats, pressure: Option<Pressure>) -> v1::MemoryUsage {
    let Some(memory) = &stats.memory else {
        return v1::MemoryUsage { timestamp: now_ns(), ..Default::default() };
    };
    let raw = |names: [&str; 2]| names.iter().find_map(|name| memory.raw.get(*name)).copied();
    let working_set = memory.working_set();
    v1::MemoryUsage {
        timestamp: now_ns(),
        working_set_bytes: value(working_set),
        // Without a limit, what is available depends on the node.
        available_bytes: memory.limit.and_then(|limit| value(limit.saturating_sub(working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: raw(["total_rss", "anon"]).and_then(value),
        page_faults: raw(["total_pgfault", "pgfault"]).and_then(value),
        major_page_faults: raw(["total_pgmajfault", "pgmajfault"]).and_then(value),
        psi: pressure.map(psi),
    }
}

fn swap(memory: &Memory) -> Option<v1::SwapUsage> {
    let used = memory.swap_usage?.saturating_sub(memory.usage);
    let limit = memory.swap_limit.zip(memory.limit).map(|(both, memory)| both.saturating_sub(memory));
    Some(v1::SwapUsage {
        timestamp: now_ns(),
        swap_available_bytes: limit.and_then(|limit| value(limit.saturating_sub(used))),
        swap_usage_bytes: value(used),
    })
}

fn psi(pressure: Pressure) -> v1::PsiStats {
    let line = |line: cgroup::Stalled| v1::PsiData {
        total: line.total_us.saturating_mul(1000),
        avg10: line.averages[0],
        avg60: line.averages[1],
        avg300: line.averages[2],
    };
    v1::PsiStats { full: Some(line(pressure.full)), some: Some(line(pressure.some)) }
}

fn sum_cpu(parts: &[v1::ContainerStats]) -> v1::CpuUsage {
    let used = parts.iter().filter_map(|part| part.cpu.as_ref()?.usage_core_nano_seconds.as_ref());
    v1::CpuUsage {
        timestamp: now_ns(),
        usage_core_nano_seconds: value(used.map(|value| value.value).sum()),
        ..Default::default()
    }
}

fn sum_memory(parts: &[v1::ContainerStats]) -> v1::MemoryUsage {
    let sum = |of: fn(&v1::MemoryUsage) -> &Option<v1::UInt64Value>| {
        value(parts.iter().filter_map(|part| of(part.memory.as_ref()?).as_ref()).map(|v| v.value).sum())
    };
    v1::MemoryUsage {
        timestamp: now_ns(),
        working_set_bytes: sum(|m| &m.working_set_bytes),
        usage_bytes: sum(|m| &m.usage_bytes),
        rss_bytes: sum(|m| &m.rss_bytes),
        page_faults: sum(|m| &m.page_faults),
        major_page_faults: sum(|m| &m.major_page_faults),
        ..Default::default()
    }
}

/// The disk usage of a writable layer, which may be as old as [`LayerUsage`] allows; `timestamp` says how old.
/// `id` identifies the filesystem as in ImageFsInfo.
fn filesystem(usage: &Arc<LayerUsage>, layer: &Path, id: &Path) -> v1::FilesystemUsage {
    let measured = usage.get(layer);
    v1::FilesystemUsage {
        timestamp: measured.map_or_else(now_ns, |measured| measured.at_ns),
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: id.display().to_string() }),
        used_bytes: measured.and_then(|measured| value(measured.bytes)),
        inodes_used: measured.and_then(|measured| value(measured.inodes)),
    }
}

/// The counters of a pod's interfaces. kubelet panics on a network without a default interface, so the first one is it if
/// none has the usual name.
fn network(sandbox: &Sandbox) -> Option<v1::NetworkUsage> {
    usage_of(interfaces::of_pod(sandbox)?)
}

fn usage_of(interfaces: Vec<Interface>) -> Option<v1::NetworkUsage> {
    let usage = |interface: Interface| v1::NetworkInterfaceUsage {
        name: interface.name,
        rx_bytes: value(interface.received.bytes),
        rx_errors: value(interface.received.errors),
        tx_bytes: value(interface.sent.bytes),
        tx_errors: value(interface.sent.errors),
    };
    let mut interfaces: Vec<_> = interfaces.into_iter().map(usage).collect();
    let main = interfaces.iter().position(|interface| interface.name == INTERFACE).unwrap_or(0);
    let default_interface = (main < interfaces.len()).then(|| interfaces.remove(main))?;
    Some(v1::NetworkUsage { timestamp: now_ns(), default_interface: Some(default_interface), interfaces })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_always_has_a_default_interface() {
        let named = |name: &str| Interface { name: name.to_owned(), ..Interface::default() };
        let names = |list: &[&str]| {
            let usage = usage_of(list.iter().map(|name| named(name)).collect())?;
            let others: Vec<_> = usage.interfaces.into_iter().map(|interface| interface.name).collect();
            Some((usage.default_interface?.name, others))
        };
        assert_eq!(names(&["net1", "eth0"]), Some(("eth0".to_owned(), vec!["net1".to_owned()])));
        assert_eq!(names(&["net1", "net2"]), Some(("net1".to_owned(), vec!["net2".to_owned()])));
        assert_eq!(names(&[]), None);
    }
}
