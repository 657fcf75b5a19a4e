//! Reads the metrics and the health of the node. Everything here blocks: for a few milliseconds, or for
//! seconds if the keeper or a plugin hangs.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use coracle_cri::{RuntimeBackend, v1};

use super::exposition::{Kind, Text};
use super::keeper_probe::{Found, KeeperProbe};
use crate::error::Result;
use crate::keeper::client::keeper_pid;
use crate::pod::one_line;
use crate::serve::Node;
use crate::store::{ImageRecord, Store};

/// All metrics as text.
pub(super) fn metrics(node: &Node, keeper: &KeeperProbe) -> String {
    let mut text = Text::default();
    text.metric(Kind::Gauge, "coracle_build_info", "1, with the version of this daemon.");
    text.sample("coracle_build_info", &[("version", env!("CARGO_PKG_VERSION"))], 1);
    add_states(&mut text, node);
    add_starts(&mut text, node);
    add_pulls(&mut text, node);
    add_store(&mut text, node.images.store());
    add_processes(&mut text, node);
    add_health(&mut text, &components(node, keeper));
    text.metric(Kind::Counter, "coracle_errors_total", "Failed calls, by call and gRPC code.");
    for (call, code, count) in node.counters.errors.all() {
        text.sample("coracle_errors_total", &[("call", call), ("code", &code)], count);
    }
    text.into_string()
}

/// A report of the node's health, and whether it is healthy.
pub(super) fn health(node: &Node, keeper: &KeeperProbe) -> (bool, String) {
    let all = components(node, keeper);
    // Without a network the node still runs pods, and kubelet is told: it is not restarted for that.
    let is_healthy = all.iter().all(|(name, state)| state.is_ok() || *name == "network");
    let line = |(name, state): &(&str, Found)| match state {
        Ok(()) => format!("{name}: ok\n"),
        Err(error) => format!("{name}: {error}\n"),
    };
    (is_healthy, all.iter().map(line).collect())
}

fn components(node: &Node, keeper: &KeeperProbe) -> [(&'static str, Found); 3] {
    let current = node.current();
    let found = |state: Result<()>| state.map_err(|error| one_line(&error));
    [
        ("keeper", keeper.state(&current.config.run)),
        ("store", found(node.images.store().check_access())),
        ("network", found(current.offer.cni.status())),
    ]
}

fn add_health(text: &mut Text, components: &[(&'static str, Found)]) {
    let name = "coracle_healthy";
    text.metric(Kind::Gauge, name, "Whether a part of the node works: 1 or 0.");
    for (component, state) in components {
        text.sample(name, &[("component", *component)], state.is_ok().into());
    }
}

fn add_states(text: &mut Text, node: &Node) {
    let pods = node.pods.list_pod_sandboxes().unwrap_or_default();
    let count = |state: v1::PodSandboxState| pods.iter().filter(|pod| pod.state() == state).count() as u64;
    text.metric(Kind::Gauge, "coracle_pods", "Pods, by state.");
    for (name, state) in
        [("ready", v1::PodSandboxState::SandboxReady), ("notready", v1::PodSandboxState::SandboxNotready)]
    {
        text.sample("coracle_pods", &[("state", name)], count(state));
    }
    let containers = node.pods.list_containers().unwrap_or_default();
    let count = |state: v1::ContainerState| {
        containers.iter().filter(|container| container.state() == state).count() as u64
    };
    text.metric(Kind::Gauge, "coracle_containers", "Containers of pods, by state.");
    for (name, state) in [
        ("created", v1::ContainerState::ContainerCreated),
        ("running", v1::ContainerState::ContainerRunning),
        ("exited", v1::ContainerState::ContainerExited),
    ] {
        text.sample("coracle_containers", &[("state", name)], count(state));
    }
}

fn add_starts(text: &mut Text, node: &Node) {
    let (pods, containers) = (node.pods.starts().pods.counted(), node.pods.starts().containers.counted());
    text.histogram("coracle_pod_start_duration_seconds", "How long RunPodSandbox took.", &pods);
    let failures = "coracle_pod_start_failures_total";
    text.one(Kind::Counter, failures, "Pods that could not be started.", pods.failures);
    text.histogram("coracle_container_start_duration_seconds", "How long StartContainer took.", &containers);
    let failures = "coracle_container_start_failures_total";
    text.one(Kind::Counter, failures, "Containers that could not be started.", containers.failures);
}

fn add_pulls(text: &mut Text, node: &Node) {
    let pulls = &node.counters.pulls;
    let durations = pulls.durations.counted();
    text.histogram("coracle_pull_duration_seconds", "How long pulls of images took.", &durations);
    let failures = "coracle_pull_failures_total";
    text.one(Kind::Counter, failures, "Pulls that failed.", durations.failures);
    let bytes = pulls.bytes.load(Ordering::Relaxed);
    text.one(Kind::Counter, "coracle_pull_bytes_total", "Bytes of layers that pulls have received.", bytes);
    let resumes = pulls.resumes.load(Ordering::Relaxed);
    let help = "Transfers that went on where an earlier one had stopped.";
    text.one(Kind::Counter, "coracle_pull_resumes_total", help, resumes);
}

fn add_store(text: &mut Text, store: &Store) {
    // Without the journal nothing is known of images and layers; `coracle_healthy` says so.
    if let (Ok(images), Ok(size)) = (store.images(), store.size_of_layers()) {
        add_images(text, store, &images, size);
    }
    if let Ok(filesystem) = rustix::fs::statvfs(store.root()) {
        let bytes = |blocks: u64| blocks.saturating_mul(filesystem.f_frsize);
        let (size, free) = (bytes(filesystem.f_blocks), bytes(filesystem.f_bavail));
        let name = "coracle_store_filesystem_size_bytes";
        text.one(Kind::Gauge, name, "The size of the filesystem of the store.", size);
        let name = "coracle_store_filesystem_available_bytes";
        text.one(Kind::Gauge, name, "The free space on the filesystem of the store.", free);
    }
}

fn add_images(text: &mut Text, store: &Store, images: &[ImageRecord], (bytes, files): (u64, u64)) {
    let ids: BTreeSet<_> = images.iter().map(|image| image.id).collect();
    text.one(Kind::Gauge, "coracle_store_images", "Images.", ids.len() as u64);
    text.one(Kind::Gauge, "coracle_store_bytes", "Unpacked layers, in bytes.", bytes);
    text.one(Kind::Gauge, "coracle_store_files", "Files of unpacked layers.", files);
    let layers = images.iter().filter_map(|image| store.layers(image).ok()).flatten();
    let damaged: BTreeSet<_> = layers.filter(|layer| layer.damaged).map(|layer| layer.id).collect();
    let help = "Layers known to be damaged; the next pull of their image replaces them.";
    text.one(Kind::Gauge, "coracle_store_damaged_layers", help, damaged.len() as u64);
}

fn add_processes(text: &mut Text, node: &Node) {
    let run = &node.current().config.run;
    let own = [("daemon", Some(std::process::id().cast_signed())), ("keeper", keeper_pid(run))];
    let name = "coracle_memory_bytes";
    text.metric(Kind::Gauge, name, "The memory of our processes: their proportional set size.");
    for (process, pid) in own {
        if let Some(bytes) = pid.and_then(proportional_set_size) {
            text.sample(name, &[("process", process)], bytes);
        }
    }
    let name = "coracle_open_file_descriptors";
    text.metric(Kind::Gauge, name, "Open file descriptors of our processes.");
    for (process, pid) in own {
        let entries = pid.and_then(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).ok());
        if let Some(entries) = entries {
            text.sample(name, &[("process", process)], entries.count() as u64);
        }
    }
    let name = "coracle_threads";
    text.metric(Kind::Gauge, name, "Threads of our processes.");
    for (process, pid) in own {
        let entries = pid.and_then(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok());
        if let Some(entries) = entries {
            text.sample(name, &[("process", process)], entries.count() as u64);
        }
    }
}

/// KERNEL(4.14) proc_pid_smaps(5): smaps_rollup, in kilobytes.
fn proportional_set_size(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_memory_of_a_process_is_read() {
        let own = super::proportional_set_size(std::process::id().cast_signed());
        assert!(own.is_some_and(|bytes| bytes > 1 << 20), "{own:?}");
        assert_eq!(super::proportional_set_size(i32::MAX), None);
    }
}
