//! ListMetricDescriptors and ListPodSandboxMetrics: the metrics of cAdvisor, for kubelets that leave them to the runtime
//! (feature gate PodAndContainerStatsFromCRI).
//!
//! kubelet hands them on as they are, without adding or checking a label, drops one whose label values are not as many as
//! the keys of its descriptor, and panics on one without a value. So a metric's type has the number of its labels.

mod container;
mod descriptors;
mod network;
mod processes;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use coracle_cri::v1;

pub(in crate::pod) use descriptors::all as descriptors;

use super::cadvisor::image_name;
use super::container::{Container, Containers};
use super::host::Host;
use super::machine::State;
use super::request_from_cri::in_force;
use super::sandbox::Sandbox;
use super::{cadvisor, interfaces, now_ns};
use crate::cgroup::{CgroupPath, Driver, Group};
use crate::error::Result;
use crate::id::ContainerId;
use container::Facts;

/// A metric with `N` labels besides those that all have.
#[derive(Debug)]
struct Metric<const N: usize> {
    name: &'static str,
    kind: v1::MetricType,
}

/// The labels that all metrics have, in this order.
const BASE: [&str; 6] = ["id", "name", "image", "pod", "namespace", "container"];

/// The metrics of one pod or container.
#[derive(Debug)]
struct Samples {
    /// The values of the labels in [`BASE`].
    base: [String; BASE.len()],
    all: Vec<v1::Metric>,
}

impl Samples {
    fn new(base: [String; BASE.len()]) -> Self {
        Self { base, all: Vec::new() }
    }

    /// Adds a value that was just read.
    fn add<const N: usize>(&mut self, metric: &Metric<N>, labels: [&str; N], value: u64) {
        let labels = labels.into_iter().map(str::to_owned);
        self.all.push(v1::Metric {
            name: metric.name.to_owned(),
            // As if read now: kubelet stamps it.
            timestamp: 0,
            metric_type: metric.kind.into(),
            label_values: self.base.iter().cloned().chain(labels).collect(),
            value: Some(v1::UInt64Value { value }),
        });
    }
}

/// Reads the metrics of pods and containers.
#[derive(Debug)]
pub(super) struct Metrics {
    host: Arc<Host>,
    containers: Arc<Containers>,
}

impl Metrics {
    pub(super) fn new(host: Arc<Host>, containers: Arc<Containers>) -> Self {
        Self { host, containers }
    }

    /// The metrics of a pod: its network, and those of its running containers. One that exits meanwhile is left out.
    pub(super) fn of_sandbox(&self, sandbox: &Sandbox) -> v1::PodSandboxMetrics {
        let metadata = sandbox.config.metadata.clone().unwrap_or_default();
        let id = self.cgroup_of(sandbox).unwrap_or_default();
        let image = cadvisor::PAUSE.to_owned();
        let base = [id, sandbox.id.clone(), image, metadata.name, metadata.namespace, String::new()];
        let mut samples = Samples::new(base);
        network::add(&mut samples, &interfaces::of_pod(sandbox).unwrap_or_default());
        let running = self.containers.in_pod(&sandbox.id).into_iter();
        let running = running.filter(|container| container.state() == State::Running);
        let container_metrics = running.filter_map(|own| self.of_container(sandbox, &own).ok()).collect();
        v1::PodSandboxMetrics { pod_sandbox_id: sandbox.id.clone(), metrics: samples.all, container_metrics }
    }

    /// The name of a pod's cgroup, whether there is one or not.
    fn cgroup_of(&self, sandbox: &Sandbox) -> Result<String> {
        let path = self.host.cgroup_path(sandbox.request.cgroup_parent.as_deref(), &sandbox.id);
        let name = cgroup_below_root(&path, &sandbox.id, self.host.settings.systemd_cgroup)?;
        Ok(format!("/{}", name.display()))
    }

    fn of_container(&self, sandbox: &Sandbox, container: &Container) -> Result<v1::ContainerMetrics> {
        let state = self.host.oci_state(&container.id)?;
        let group = Group::from_paths(&state.cgroup_paths)?;
        let stats = group.stats()?;
        let layer = self.host.layer(&container.id)?.join("upper");
        let layer_bytes = container.usage.get(&layer).map(|measured| measured.bytes);
        let pod = sandbox.config.metadata.clone().unwrap_or_default();
        let (image, name, facts) = {
            let life = container.life();
            let limits = life.config.linux.as_ref().and_then(|linux| linux.resources.clone());
            let facts = Facts {
                pid: state.init_process_pid,
                started_ns: life.record.started_ns,
                now_ns: now_ns(),
                limits: in_force(&limits.unwrap_or_default(), crate::cgroup::limits_swap()),
                layer_bytes,
            };
            let name = life.config.metadata.as_ref().map(|metadata| metadata.name.clone());
            (image_name(life.config.image.as_ref(), &life.record), name.unwrap_or_default(), facts)
        };
        let id = group.paths().values().next().map_or_else(String::new, |path| cgroup_name(path));
        let base = [id, container.id.clone(), image, pod.name, pod.namespace, name];
        let mut samples = Samples::new(base);
        container::add(&mut samples, &facts, &group, &stats);
        container::add_filesystem(&mut samples, self.host.layers(), facts.layer_bytes);
        Ok(v1::ContainerMetrics { container_id: container.id.clone(), metrics: samples.all })
    }
}

/// The path of a cgroup in its hierarchy, from `linux.cgroupsPath`.
fn cgroup_below_root(path: &Path, id: &str, is_systemd: bool) -> Result<PathBuf> {
    let driver = if is_systemd { Driver::Systemd } else { Driver::Cgroupfs };
    CgroupPath::new(Some(path), &ContainerId::parse(id)?, driver)?.below_root(Path::new("/"))
}

/// The path of a cgroup in its hierarchy, by which cAdvisor names it.
fn cgroup_name(path: &Path) -> String {
    let mut inner = path.strip_prefix("/sys/fs/cgroup").unwrap_or(path).components();
    if crate::cgroup::mode().is_ok_and(|mode| mode == crate::cgroup::Mode::V1) {
        // The mount of a controller, or that of the v2 hierarchy on a hybrid host.
        inner.next();
    }
    format!("/{}", inner.as_path().display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_have_the_names_that_cadvisor_gives_them() {
        let name = |path: &str, is_systemd| cgroup_below_root(Path::new(path), "web-1", is_systemd).unwrap();
        assert_eq!(name("/kubepods/podx/web-1", false), Path::new("kubepods/podx/web-1"));
        let scope = Path::new("kubepods.slice/kubepods-podx.slice/coracle-web-1.scope");
        assert_eq!(name("kubepods-podx.slice:coracle:web-1", true), scope);
    }
}
