//! What pods and containers use, read when somebody asks.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use coracle_cri::v1;

use super::container::Container;
use super::machine::State;
use super::sandbox::{INTERFACE, Sandbox};
use super::{Pods, now_ns};
use crate::cgroup::{Group, Memory, Pressure, Stats};
use crate::error::{Doing, Result};
use crate::id::ContainerId;

/// A writable layer is looked through no more often than this ...
const LEAST_PAUSE: Duration = Duration::from_secs(30);
/// ... and for no more than this part of the time.
const PAUSE_FACTOR: u32 = 100;

/// Whoever asks waits so long for a layer that is being looked through; then the answer is what was known before.
const PATIENCE: Duration = Duration::from_millis(200);

/// How large a writable layer was.
#[derive(Debug, Clone, Copy)]
struct Measured {
    bytes: u64,
    inodes: u64,
    at_ns: i64,
    again: Instant,
}

/// How large a container's writable layer is. A container can make it as slow to be looked through as it likes: that is
/// done by a thread of its own, one at a time, which nobody has to wait for.
#[derive(Debug, Default)]
pub(super) struct LayerUsage {
    state: Mutex<Usage>,
    measured: Condvar,
}

#[derive(Debug, Default)]
struct Usage {
    last: Option<Measured>,
    being_measured: bool,
}

impl LayerUsage {
    /// What was found last; none while it is looked through for the first time.
    fn get(self: &Arc<Self>, layer: &Path) -> Option<Measured> {
        let mut state = self.state();
        if state.last.is_some_and(|last| Instant::now() < last.again) {
            return state.last;
        }
        if !state.being_measured {
            state.being_measured = self.begin(layer);
        }
        let waited = self.measured.wait_timeout_while(state, PATIENCE, |state| state.being_measured);
        waited.unwrap_or_else(PoisonError::into_inner).0.last
    }

    fn begin(self: &Arc<Self>, layer: &Path) -> bool {
        let (own, layer) = (Arc::clone(self), layer.to_owned());
        let thread = std::thread::Builder::new().name("layer".to_owned()).stack_size(256 << 10);
        let work = move || {
            let measured = measure(&layer);
            let mut state = own.state();
            (state.last, state.being_measured) = (Some(measured), false);
            own.measured.notify_all();
        };
        thread.spawn(work).is_ok()
    }

    /// No foreign code runs while it is held, so a poisoned one is sound.
    fn state(&self) -> MutexGuard<'_, Usage> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pods {
    /// What a container uses.
    ///
    /// # Errors
    /// `NotFound`
    pub(super) fn stats(&self, id: &str) -> Result<v1::ContainerStats> {
        let container = self.container(id)?;
        self.stats_of(&container)
    }

    fn stats_of(&self, container: &Container) -> Result<v1::ContainerStats> {
        let attributes = {
            let life = container.life();
            v1::ContainerAttributes {
                id: container.id.clone(),
                metadata: life.config.metadata.clone(),
                labels: life.config.labels.clone(),
                annotations: life.config.annotations.clone(),
            }
        };
        let layer = self.layer_of(container)?;
        let mut answer = v1::ContainerStats {
            attributes: Some(attributes),
            writable_layer: Some(usage_of(&container.usage, &layer)),
            ..Default::default()
        };
        if container.state() == State::Running {
            let group = Group::from_paths(&self.oci_state(&container.id)?.cgroup_paths)?;
            let stats = group.stats()?;
            answer.cpu = Some(cpu(&stats, group.pressure("cpu")));
            answer.memory = Some(memory(&stats, group.pressure("memory")));
            answer.io = group.pressure("io").map(|p| v1::IoUsage { timestamp: now_ns(), psi: Some(psi(p)) });
            answer.swap = stats.memory.as_ref().and_then(swap);
        }
        Ok(answer)
    }

    fn layer_of(&self, container: &Container) -> Result<PathBuf> {
        let stored = self.store.container_dir(&ContainerId::parse(&container.id)?);
        let layer =
            if self.settings.layers_in_memory { self.directories.layer(&container.id) } else { stored };
        Ok(layer.join("upper"))
    }

    /// What a pod uses: its containers together, its network.
    ///
    /// # Errors
    /// `NotFound`
    pub(super) fn sandbox_stats(&self, id: &str) -> Result<v1::PodSandboxStats> {
        let sandbox = self.sandbox(id)?;
        let containers = self.table().of_pod(&sandbox.id);
        let mut parts = Vec::new();
        for container in containers.iter().filter(|c| c.state() == State::Running) {
            match self.stats_of(container) {
                // One that ends meanwhile uses nothing.
                Err(_) => {}
                Ok(stats) => parts.push((container, stats)),
            }
        }
        let processes = parts.iter().map(|(c, _)| self.process_count(c)).sum();
        let stats: Vec<_> = parts.into_iter().map(|(_, stats)| stats).collect();
        Ok(v1::PodSandboxStats {
            attributes: Some(v1::PodSandboxAttributes {
                id: sandbox.id.clone(),
                metadata: sandbox.config.metadata.clone(),
                labels: sandbox.config.labels.clone(),
                annotations: sandbox.config.annotations.clone(),
            }),
            linux: Some(v1::LinuxPodSandboxStats {
                cpu: Some(sum_cpu(&stats)),
                memory: Some(sum_memory(&stats)),
                network: network(&sandbox),
                process: Some(v1::ProcessUsage { timestamp: now_ns(), process_count: value(processes) }),
                containers: stats,
                ..Default::default()
            }),
            windows: None,
        })
    }

    fn process_count(&self, container: &Container) -> u64 {
        let group = self.oci_state(&container.id).and_then(|state| Group::from_paths(&state.cgroup_paths));
        // Not what the pids controller counts: that has threads in it, and is off where nothing limits them.
        group.and_then(|group| group.pids()).map_or(0, |pids| pids.len() as u64)
    }
}

/// The CRI's optional number.
fn value(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}

fn cpu(stats: &Stats, pressure: Option<Pressure>) -> v1::CpuUsage {
    v1::CpuUsage {
        timestamp: now_ns(),
        usage_core_nano_seconds: stats.cpu.and_then(|cpu| value(cpu.usage_ns)),
        usage_nano_cores: None,
        psi: pressure.map(psi),
    }
}

fn memory(stats: &Stats, pressure: Option<Pressure>) -> v1::MemoryUsage {
    let Some(memory) = &stats.memory else {
        return v1::MemoryUsage { timestamp: now_ns(), ..Default::default() };
    };
    let raw = |names: [&str; 2]| names.iter().find_map(|name| memory.raw.get(*name)).copied();
    let working_set = memory.working_set();
    v1::MemoryUsage {
        timestamp: now_ns(),
        working_set_bytes: value(working_set),
        // Without a limit it is the node's to say.
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
    let line = |line: crate::cgroup::Stalled| v1::PsiData {
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

/// The room that a writable layer takes. It is looked through once in a while: what is told may be that old.
fn usage_of(usage: &Arc<LayerUsage>, layer: &Path) -> v1::FilesystemUsage {
    let measured = usage.get(layer);
    v1::FilesystemUsage {
        timestamp: measured.map_or_else(now_ns, |measured| measured.at_ns),
        fs_id: Some(v1::FilesystemIdentifier { mountpoint: layer.display().to_string() }),
        used_bytes: measured.and_then(|measured| value(measured.bytes)),
        inodes_used: measured.and_then(|measured| value(measured.inodes)),
    }
}

fn measure(layer: &Path) -> Measured {
    let began = Instant::now();
    let (mut bytes, mut inodes) = (0, 0);
    let mut todo = vec![layer.to_owned()];
    while let Some(directory) = todo.pop() {
        // The container writes while it is looked at: what goes meanwhile does not count.
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            bytes += meta.blocks() * 512;
            inodes += 1;
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    let pause = LEAST_PAUSE.max(began.elapsed() * PAUSE_FACTOR);
    Measured { bytes, inodes, at_ns: now_ns(), again: Instant::now() + pause }
}

/// Counters of a pod's interfaces but loopback, as proc_pid_net(5) has them.
fn network(sandbox: &Sandbox) -> Option<v1::NetworkUsage> {
    let path = sandbox.namespace("net")?;
    let text = crate::net::namespace::within(&path, || {
        std::fs::read_to_string("/proc/thread-self/net/dev").doing(|| "read /proc/thread-self/net/dev")
    });
    let mut interfaces = parse_dev(&text.ok()?);
    let main = interfaces.iter().position(|interface| interface.name == INTERFACE);
    let default_interface = main.map(|index| interfaces.remove(index));
    Some(v1::NetworkUsage { timestamp: now_ns(), default_interface, interfaces })
}

fn parse_dev(text: &str) -> Vec<v1::NetworkInterfaceUsage> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> =
            numbers.split_ascii_whitespace().map_while(|number| number.parse().ok()).collect();
        let at = |index: usize| numbers.get(index).copied().and_then(value);
        Some(v1::NetworkInterfaceUsage {
            name: name.trim().to_owned(),
            rx_bytes: at(0),
            rx_errors: at(2),
            tx_bytes: at(8),
            tx_errors: at(10),
        })
    };
    text.lines().skip(2).filter_map(line).filter(|interface| interface.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_interfaces_are_read() {
        let text = "Inter-| Receive | Transmit\n face |bytes packets errs ...\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                    eth0: 100 2 3 0 0 0 0 0 200 4 5 0 0 0 0 0\n";
        let found = parse_dev(text);
        assert_eq!(found.len(), 1);
        let number = |value: &Option<v1::UInt64Value>| value.as_ref().map(|v| v.value);
        let eth0 = &found[0];
        assert_eq!(eth0.name, "eth0");
        assert_eq!(
            [&eth0.rx_bytes, &eth0.rx_errors, &eth0.tx_bytes, &eth0.tx_errors].map(number),
            [100, 3, 200, 5].map(Some)
        );
    }

    #[test]
    fn a_writable_layer_is_measured_with_all_below() {
        let layer = tempfile::tempdir().unwrap();
        std::fs::create_dir(layer.path().join("a")).unwrap();
        std::fs::write(layer.path().join("a/b"), vec![1; 10_000]).unwrap();
        let measured = measure(layer.path());
        assert_eq!(measured.inodes, 2);
        assert!(measured.bytes >= 10_000);
    }
}
