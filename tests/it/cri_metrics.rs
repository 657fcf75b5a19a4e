//! ListPodSandboxMetrics, as kubelet reads it, and PodSandboxStats, which it needs beside.

use std::collections::{BTreeMap, BTreeSet};

use coracle_cri::v1::*;

use crate::pods_network::{in_pod, node};
use crate::support::{Serve, container, pod_on_host};

/// Names whose values depend on the machine: block devices, huge pages, pressure.
const OPTIONAL: [&str; 5] = [
    "container_blkio_",
    "container_fs_reads",
    "container_fs_writes",
    "container_hugetlb_",
    "container_pressure_",
];

/// A metric with its labels by key.
type Sample = (BTreeMap<String, String>, u64);

/// The samples of a list by name, paired with the keys of their descriptors as kubelet does.
struct Scrape(BTreeMap<String, Vec<Sample>>);

impl Scrape {
    #[track_caller]
    fn of(serve: &Serve) -> (Self, Vec<PodSandboxMetrics>) {
        let descriptors = serve.run(serve.runtime().list_metric_descriptors(ListMetricDescriptorsRequest {}));
        let descriptors = descriptors.unwrap().descriptors;
        let keys: BTreeMap<_, _> =
            descriptors.into_iter().map(|descriptor| (descriptor.name, descriptor.label_keys)).collect();
        let pods = serve.run(serve.runtime().list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}));
        let pods = pods.unwrap().pod_metrics;
        let of_containers = pods.iter().flat_map(|pod| &pod.container_metrics).flat_map(|own| &own.metrics);
        let mut found: BTreeMap<_, Vec<_>> = keys.keys().map(|name| (name.clone(), Vec::new())).collect();
        for metric in pods.iter().flat_map(|pod| &pod.metrics).chain(of_containers) {
            let keys = &keys[&metric.name];
            assert_eq!(metric.label_values.len(), keys.len(), "{metric:?}");
            let labels = keys.iter().cloned().zip(metric.label_values.iter().cloned()).collect();
            let value = metric.value.as_ref().unwrap_or_else(|| panic!("kubelet panics: {metric:?}"));
            assert_eq!(metric.timestamp, 0, "{metric:?}");
            found.get_mut(&metric.name).unwrap().push((labels, value.value));
        }
        (Self(found), pods)
    }

    #[track_caller]
    fn one(&self, name: &str) -> &Sample {
        match &self.0[&format!("container_{name}")][..] {
            [one] => one,
            other => panic!("{name}: {other:?}"),
        }
    }

    #[track_caller]
    fn value(&self, name: &str) -> u64 {
        self.one(name).1
    }
}

#[test]
fn every_metric_of_cadvisor_is_there_with_its_labels() {
    needs!(root, busybox, launch_verb, cni_plugins, cgroup_limits);
    let serve = node();
    let pod = serve.logged(crate::support::pod_with("metrics", in_pod()));
    let id = serve.run_pod(&pod);
    let script = "dd if=/dev/zero of=/tmp/file bs=1024 count=2048 2>/dev/null; while :; do sleep 0.2; done";
    let limits = LinuxContainerResources {
        cpu_period: 50_000,
        cpu_quota: 20_000,
        cpu_shares: 512,
        memory_limit_in_bytes: 64 << 20,
        ..LinuxContainerResources::default()
    };
    let mut config = container(&pod, "box", script);
    config.linux.as_mut().unwrap().resources = Some(limits);
    let c = serve.run_container(&id, &pod, &config);
    let (scrape, pods) = Scrape::of(&serve);
    assert_eq!((pods.len(), pods[0].pod_sandbox_id.as_str()), (1, id.as_str()));
    assert_eq!(pods[0].container_metrics[0].container_id, c);

    let missing: Vec<_> =
        scrape.0.iter().filter(|(_, samples)| samples.is_empty()).map(|(name, _)| name).collect();
    let missing: Vec<_> =
        missing.into_iter().filter(|name| !OPTIONAL.iter().any(|prefix| name.starts_with(prefix))).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for (name, samples) in &scrape.0 {
        let distinct: BTreeSet<_> = samples.iter().map(|(labels, _)| labels).collect();
        assert_eq!(distinct.len(), samples.len(), "{name} has equal labels twice");
        for (labels, _) in samples {
            assert_eq!((labels["pod"].as_str(), labels["namespace"].as_str()), ("metrics", "tests"));
            let is_of_pod = name.starts_with("container_network_");
            assert_eq!(labels["container"], if is_of_pod { "" } else { "box" }, "{name}");
            assert_eq!(labels["name"], if is_of_pod { id.clone() } else { c.clone() });
            assert!(labels["id"].starts_with('/') && labels["id"].ends_with(&labels["name"]), "{labels:?}");
            assert!(labels["image"].contains(if is_of_pod { "pause" } else { "docker.io/library/box" }));
        }
    }
    assert_eq!(scrape.one("cpu_usage_seconds_total").0["cpu"], "total");
    assert_eq!(scrape.value("spec_cpu_period"), 50_000);
    assert_eq!(scrape.value("spec_cpu_quota"), 20_000);
    assert_eq!(scrape.value("spec_cpu_shares"), 512);
    assert_eq!(scrape.value("spec_memory_limit_bytes"), 64 << 20);
    let (usage, peak) = (scrape.value("memory_usage_bytes"), scrape.value("memory_max_usage_bytes"));
    assert!(peak == 0 || (usage <= peak && peak <= 64 << 20), "{usage} {peak}: the peak is not the limit");
    assert!((1..=2).contains(&scrape.value("processes")), "a shell, and sleep");
    assert!((1..=3).contains(&scrape.value("threads")));
    assert!(scrape.value("file_descriptors") >= 3);
    assert!(scrape.value("ulimits_soft") > 0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    for name in ["last_seen", "start_time_seconds"] {
        assert!(scrape.value(name).abs_diff(now) < 60, "{name} is in seconds");
    }
    assert_eq!(scrape.one("network_receive_bytes_total").0["interface"], "eth0");
    assert!(scrape.value("fs_limit_bytes") > 0);
    assert_eq!(scrape.0["container_memory_failures_total"].len(), 4);

    // What has exited is left out, and its pod is not.
    serve.try_stop(&c, 0).unwrap();
    let (_, pods) = Scrape::of(&serve);
    assert_eq!((pods.len(), pods[0].container_metrics.len()), (1, 0));
    serve.removes_all();
    assert_eq!(Scrape::of(&serve).1, []);
}

#[test]
fn statistics_of_pods_are_complete_enough_for_kubelet() {
    needs!(root, busybox, launch_verb, cni_plugins);
    let serve = node();
    let stats = || {
        let all = serve.run(serve.runtime().list_pod_sandbox_stats(ListPodSandboxStatsRequest::default()));
        all.unwrap().stats
    };
    let own = serve.logged(crate::support::pod_with("own", in_pod()));
    let own_id = serve.run_pod(&own);
    let host = serve.logged(pod_on_host("host"));
    let host_id = serve.run_pod(&host);
    serve.run_container(&own_id, &own, &container(&own, "c", "sleep 1000"));
    serve.run_container(&host_id, &host, &container(&host, "h", "sleep 1000"));
    for pod in stats() {
        let linux = pod.linux.expect("kubelet panics without it");
        assert_eq!(linux.process.unwrap().process_count.unwrap().value, 1);
        assert_eq!(linux.containers.len(), 1);
        assert!(linux.cpu.is_some() && linux.memory.is_some());
        let is_own = pod.attributes.unwrap().id == own_id;
        assert_eq!(linux.network.is_some(), is_own);
        if let Some(network) = linux.network {
            assert_eq!(network.default_interface.expect("kubelet panics without it").name, "eth0");
        }
    }
    serve.try_stop_pod(&own_id).unwrap();
    assert!(stats().iter().all(|pod| pod.linux.is_some()));
    serve.removes_all();
}
