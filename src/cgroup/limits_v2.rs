//! Converts `linux.resources` to cgroup v2 files: the conversions of runc's `fs2`, in its order.

use std::borrow::Cow;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::limits::{self, Limits};
use super::scale;
use super::write::{Missing, Write};
use crate::error::{Error, Result};

/// The kernel's default for the period of a CPU quota, in microseconds.
const DEFAULT_PERIOD: u64 = 100_000;

pub(crate) fn limits(resources: &LinuxResources) -> Result<Limits> {
    let mut limits = Limits::default();
    limits.writes.extend(limits::pids(resources));
    if let Some(memory) = resources.memory() {
        add_memory(&mut limits, memory)?;
    }
    if let Some(io) = resources.block_io() {
        add_io(&mut limits, io)?;
    }
    if let Some(cpu) = resources.cpu() {
        add_cpu(&mut limits, cpu)?;
        limits.writes.extend(limits::cpuset(cpu));
    }
    limits.writes.extend(limits::hugepages(resources, "max")?);
    limits.writes.extend(limits::rdma(resources)?);
    if let Some(network) = resources.network() {
        limits.ignore_if(network.class_id().is_some_and(|id| id != 0), "linux.resources.network.classID");
        let priorities = network.priorities().as_ref().is_some_and(|list| !list.is_empty());
        limits.ignore_if(priorities, "linux.resources.network.priorities");
    }
    limits.writes.extend(unified(resources)?);
    Ok(limits)
}

fn add_memory(limits: &mut Limits, spec: &LinuxMemory) -> Result<()> {
    let memory = limits::memory(spec)?;
    let size = |value: i64| if value == -1 { "max".to_owned() } else { value.to_string() };
    if let Some(swap) = scale::swap_limit(memory.swap, memory.limit)? {
        let write = Write::new("linux.resources.memory.swap", "memory", "memory.swap.max", size(swap));
        // A kernel without swap accounting has no file; for it "no swap" and "unlimited swap" are the same.
        limits.writes.push(if swap <= 0 { write.or_skip() } else { write });
    }
    if memory.limit != 0 {
        let field = "linux.resources.memory.limit";
        limits.writes.push(Write::new(field, "memory", "memory.max", size(memory.limit)));
    }
    if memory.reservation != 0 {
        let field = "linux.resources.memory.reservation";
        limits.writes.push(Write::new(field, "memory", "memory.low", size(memory.reservation)));
    }
    if spec.check_before_update() == Some(true) {
        let bounds = [memory.limit, memory.swap].into_iter().filter(|bound| *bound > 0);
        limits.usage_below = bounds.min().and_then(|bound| u64::try_from(bound).ok());
    }
    limits.ignore_if(limits::has_kernel_memory(spec), "linux.resources.memory.kernel");
    limits.ignore_if(spec.swappiness().is_some(), "linux.resources.memory.swappiness");
    limits.ignore_if(spec.disable_oom_killer() == Some(true), "linux.resources.memory.disableOOMKiller");
    Ok(())
}

fn add_io(limits: &mut Limits, io: &LinuxBlockIo) -> Result<()> {
    if let Some(weight) = limits::weight("weight", io.weight())? {
        let write = Write::new("linux.resources.blockIO.weight", "io", "io.bfq.weight", weight);
        limits.writes.push(write.or_instead("io.weight", scale::io_weight(weight)));
    }
    for (at, own) in io.weight_device().iter().flatten().enumerate() {
        let field = format!("weightDevice[{at}]");
        let device = limits::device(&field, own.major(), own.minor())?;
        if let Some(weight) = limits::weight(&field, own.weight())? {
            let field = "linux.resources.blockIO.weightDevice";
            let write = Write::new(field, "io", "io.bfq.weight", format!("{device} {weight}"));
            let other = format!("{device} {}", scale::io_weight(weight));
            limits.writes.push(write.or_instead("io.weight", other));
        }
    }
    limits.writes.extend(limits::throttle_writes(io, |throttle, device, rate| {
        Write::new(throttle.field, "io", "io.max", format!("{device} {}={rate}", throttle.key))
    })?);
    limits.ignore_if(io.leaf_weight().is_some_and(|w| w != 0), "linux.resources.blockIO.leafWeight");
    Ok(())
}

fn add_cpu(limits: &mut Limits, cpu: &LinuxCpu) -> Result<()> {
    let mut add =
        |field, file, value: String| limits.writes.push(Write::new(field, "cpu", file, value).or_retry());
    if let Some(idle) = limits::idle(cpu)? {
        add("linux.resources.cpu.idle", "cpu.idle", idle.to_string());
    }
    let weight = scale::cpu_weight(cpu.shares().unwrap_or(0));
    if weight != 0 {
        add("linux.resources.cpu.shares", "cpu.weight", weight.to_string());
    }
    if let Some(burst) = cpu.burst() {
        add("linux.resources.cpu.burst", "cpu.max.burst", burst.to_string());
    }
    let (quota, period) = (cpu.quota().unwrap_or(0), cpu.period().unwrap_or(0));
    if quota != 0 || period != 0 {
        let field = if quota != 0 { "linux.resources.cpu.quota" } else { "linux.resources.cpu.period" };
        let quota = if quota > 0 { quota.to_string() } else { "max".to_owned() };
        let period = if period == 0 { DEFAULT_PERIOD } else { period };
        add(field, "cpu.max", format!("{quota} {period}"));
    }
    limits.ignore_if(cpu.realtime_runtime().is_some_and(|v| v != 0), "linux.resources.cpu.realtimeRuntime");
    limits.ignore_if(cpu.realtime_period().is_some_and(|v| v != 0), "linux.resources.cpu.realtimePeriod");
    Ok(())
}

/// Files sorted by name; a value of several lines is written line by line.
fn unified(resources: &LinuxResources) -> Result<Vec<Write>> {
    let mut files: Vec<_> = resources.unified().iter().flatten().collect();
    files.sort();
    let mut writes = Vec::new();
    for (file, value) in files {
        let refuse = |why: &str| Err(Error::invalid(format!("linux.resources.unified: {file:?} {why}")));
        if file.contains(['/', '\0', '\n']) {
            return refuse("is not the name of a file: it has a slash or a control character");
        }
        let (controller, parameter) = file.split_once('.').unwrap_or_default();
        if controller.is_empty() || parameter.is_empty() {
            return refuse("is not of the form CONTROLLER.PARAMETER");
        }
        writes.extend(value.lines().map(|line| Write {
            field: Cow::Owned(format!("linux.resources.unified[{file:?}]")),
            controller: Cow::Owned(controller.to_owned()),
            file: Cow::Owned(file.clone()),
            value: line.to_owned(),
            missing: Missing::Refuse,
            optional: false,
            retry: false,
        }));
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &str) -> Result<Limits> {
        limits(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn each_resource_becomes_its_files_in_order() {
        for (json, expected) in [
            ("{}", ""),
            (r#"{"pids":{"limit":20}}"#, "pids.max=20"),
            (r#"{"pids":{"limit":-1}}"#, "pids.max=max"),
            (r#"{"pids":{"limit":0}}"#, "pids.max=1"),
            (
                r#"{"memory":{"limit":1000,"reservation":500,"swap":1500}}"#,
                "memory.swap.max=500; memory.max=1000; memory.low=500",
            ),
            (r#"{"memory":{"limit":1000,"swap":1000}}"#, "memory.swap.max=0; memory.max=1000"),
            (r#"{"memory":{"limit":-1}}"#, "memory.swap.max=max; memory.max=max"),
            (r#"{"memory":{"limit":0}}"#, ""),
            (
                r#"{"cpu":{"shares":1024,"quota":50000,"period":200000,"burst":10}}"#,
                "cpu.weight=100; cpu.max.burst=10; cpu.max=50000 200000",
            ),
            (r#"{"cpu":{"quota":-1}}"#, "cpu.max=max 100000"),
            (r#"{"cpu":{"period":5000}}"#, "cpu.max=max 5000"),
            (r#"{"cpu":{"quota":5000}}"#, "cpu.max=5000 100000"),
            (r#"{"cpu":{"idle":1,"cpus":"0-1","mems":"0"}}"#, "cpu.idle=1; cpuset.cpus=0-1; cpuset.mems=0"),
            (r#"{"cpu":{"cpus":"","shares":0}}"#, ""),
            (
                r#"{"blockIO":{"weight":100,"weightDevice":[{"major":8,"minor":0,"weight":500}],
                    "throttleReadBpsDevice":[{"major":8,"minor":0,"rate":7}],
                    "throttleWriteIOPSDevice":[{"major":8,"minor":16,"rate":9}]}}"#,
                "io.bfq.weight=100; io.bfq.weight=8:0 500; io.max=8:0 rbps=7; io.max=8:16 wiops=9",
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"2MB","limit":4194304}]}"#,
                "hugetlb.2MB.max=4194304; hugetlb.2MB.rsvd.max=4194304",
            ),
            (
                r#"{"rdma":{"mlx5_1":{"hcaHandles":3,"hcaObjects":10},"a":{"hcaHandles":1},"b":{}}}"#,
                "rdma.max=a hca_handle=1; rdma.max=mlx5_1 hca_handle=3 hca_object=10",
            ),
            (
                r#"{"unified":{"memory.high":"10","io.max":"8:0 rbps=1\n8:16 rbps=2"}}"#,
                "io.max=8:0 rbps=1; io.max=8:16 rbps=2; memory.high=10",
            ),
        ] {
            let limits = of(json).unwrap();
            let said: Vec<_> = limits.writes.iter().map(|w| format!("{}={}", w.file, w.value)).collect();
            assert_eq!(said.join("; "), expected, "{json}");
        }
    }

    #[test]
    fn without_bfq_the_weight_goes_to_io_weight_in_its_scale() {
        let writes = of(r#"{"blockIO":{"weight":1000}}"#).unwrap().writes;
        assert_eq!(writes[0].missing, Missing::Instead { file: "io.weight", value: "10000".to_owned() });
    }

    #[test]
    fn bad_values_name_their_field() {
        for (json, field) in [
            (r#"{"memory":{"limit":-2}}"#, "linux.resources.memory.limit"),
            (r#"{"memory":{"reservation":-5}}"#, "linux.resources.memory.reservation"),
            (r#"{"memory":{"swap":5}}"#, "linux.resources.memory.swap"),
            (r#"{"memory":{"limit":5,"swap":4}}"#, "linux.resources.memory.swap"),
            (r#"{"cpu":{"idle":2}}"#, "linux.resources.cpu.idle"),
            (r#"{"blockIO":{"weight":5}}"#, "linux.resources.blockIO.weight"),
            (r#"{"blockIO":{"weightDevice":[{"major":-1,"minor":0,"weight":10}]}}"#, "weightDevice[0]"),
            (
                r#"{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":-1,"rate":1}]}}"#,
                "throttleReadBpsDevice",
            ),
            (r#"{"hugepageLimits":[{"pageSize":"../x","limit":1}]}"#, "hugepageLimits[0].pageSize"),
            (r#"{"hugepageLimits":[{"pageSize":"2MB","limit":-1}]}"#, "hugepageLimits[0].limit"),
            (r#"{"rdma":{"a b":{}}}"#, "linux.resources.rdma"),
            (r#"{"unified":{"../memory.max":"1"}}"#, "linux.resources.unified"),
            (r#"{"unified":{"memory":"1"}}"#, "linux.resources.unified"),
            (r#"{"unified":{"..":"1"}}"#, "linux.resources.unified"),
            (r#"{"unified":{".x":"1"}}"#, "linux.resources.unified"),
        ] {
            let error = of(json).unwrap_err();
            assert!(error.to_string().contains(field), "{json}: {error}");
            assert_eq!(error.kind(), crate::error::Kind::Invalid);
        }
    }

    #[test]
    fn fields_that_v2_lacks_are_reported() {
        let limits = of(r#"{"memory":{"swappiness":10,"disableOOMKiller":true,"kernel":5},
            "cpu":{"realtimeRuntime":5,"realtimePeriod":6},"blockIO":{"leafWeight":10},
            "network":{"classID":1,"priorities":[{"name":"eth0","priority":1}]}}"#)
        .unwrap();
        assert_eq!(limits.writes, []);
        assert_eq!(limits.ignored.len(), 8, "{:?}", limits.ignored);
        assert_eq!(of(r#"{"memory":{"disableOOMKiller":false}}"#).unwrap().ignored, [""; 0]);
    }

    #[test]
    fn a_check_before_update_takes_the_smaller_bound() {
        let json = r#"{"memory":{"limit":1000,"swap":1500,"checkBeforeUpdate":true}}"#;
        assert_eq!(of(json).unwrap().usage_below, Some(1000));
        assert_eq!(of(r#"{"memory":{"limit":-1,"checkBeforeUpdate":true}}"#).unwrap().usage_below, None);
    }
}
