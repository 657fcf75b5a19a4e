//! Converts `linux.resources` to cgroup v1 files: the values of runc's `fs`; [`super::write`] handles the order.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::limits::{self, Limits};
use super::write::Write;
use crate::error::{Error, Result};

pub(crate) fn limits(resources: &LinuxResources) -> Result<Limits> {
    if resources.unified().as_ref().is_some_and(|files| !files.is_empty()) {
        let error =
            Error::invalid("linux.resources.unified: this host runs cgroup v1, which has no unified files");
        return Err(error.hint("use linux.resources.memory, cpu and so on, or boot with cgroup v2"));
    }
    let mut limits = Limits::default();
    if let Some(cpu) = resources.cpu() {
        limits.writes.extend(limits::cpuset(cpu));
    }
    if let Some(memory) = resources.memory() {
        add_memory(&mut limits, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        add_cpu(&mut limits, cpu)?;
    }
    limits.writes.extend(limits::pids(resources));
    if let Some(io) = resources.block_io() {
        add_io(&mut limits, io)?;
    }
    limits.writes.extend(limits::hugepages(resources, "limit_in_bytes")?);
    add_network(&mut limits, resources)?;
    limits.writes.extend(limits::rdma(resources)?);
    Ok(limits)
}

fn add_memory(limits: &mut Limits, spec: &LinuxMemory) -> Result<()> {
    let memory = limits::memory(spec)?;
    let write = |field, file, value: i64| Write::new(field, "memory", file, value).or_retry();
    if memory.limit != 0 {
        limits.writes.push(write("linux.resources.memory.limit", "memory.limit_in_bytes", memory.limit));
    }
    let (field, file) = ("linux.resources.memory.swap", "memory.memsw.limit_in_bytes");
    match (memory.limit, memory.swap) {
        // "Unlimited memory" alone means memory+swap too; a kernel without swap accounting has no file for that.
        (-1, 0) => limits.writes.push(write(field, file, -1).or_skip()),
        (_, 0) => {}
        (limit, swap) if swap > 0 && swap < limit => {
            let doing =
                format!("{field}: {swap} counts memory and swap and must not be below the limit {limit}");
            return Err(Error::invalid(doing));
        }
        (_, swap) => limits.writes.push(write(field, file, swap)),
    }
    if memory.reservation != 0 {
        let field = "linux.resources.memory.reservation";
        limits.writes.push(write(field, "memory.soft_limit_in_bytes", memory.reservation));
    }
    if spec.disable_oom_killer() == Some(true) {
        limits.writes.push(write("linux.resources.memory.disableOOMKiller", "memory.oom_control", 1));
    }
    match spec.swappiness() {
        // Some writers of specs encode "not set" as -1, which arrives as the largest number.
        None | Some(u64::MAX) => {}
        Some(value @ 0..=100) => {
            let field = "linux.resources.memory.swappiness";
            limits.writes.push(Write::new(field, "memory", "memory.swappiness", value));
        }
        Some(value) => {
            let doing = format!("linux.resources.memory.swappiness: {value} is not between 0 and 100");
            return Err(Error::invalid(doing));
        }
    }
    limits.ignore_if(limits::has_kernel_memory(spec), "linux.resources.memory.kernel");
    Ok(())
}

fn add_cpu(limits: &mut Limits, cpu: &LinuxCpu) -> Result<()> {
    let shares = cpu.shares().unwrap_or(0);
    // The kernel would clamp the value silently; runc reads it back and refuses, so refuse here.
    if shares != 0 && !(2..=262_144).contains(&shares) {
        let doing = format!("linux.resources.cpu.shares: {shares} is not between 2 and 262144");
        return Err(Error::invalid(doing));
    }
    let unsigned = |value: Option<u64>| value.filter(|v| *v != 0).map(|v| v.to_string());
    let signed = |value: Option<i64>| value.filter(|v| *v != 0).map(|v| v.max(-1).to_string());
    let files = [
        ("linux.resources.cpu.shares", "cpu.shares", unsigned(cpu.shares())),
        // Realtime limits are written before the process enters: a SCHED_RR process cannot enter a group without them.
        ("linux.resources.cpu.realtimePeriod", "cpu.rt_period_us", unsigned(cpu.realtime_period())),
        ("linux.resources.cpu.realtimeRuntime", "cpu.rt_runtime_us", signed(cpu.realtime_runtime())),
        ("linux.resources.cpu.period", "cpu.cfs_period_us", unsigned(cpu.period())),
        ("linux.resources.cpu.burst", "cpu.cfs_burst_us", cpu.burst().map(|v| v.to_string())),
        ("linux.resources.cpu.quota", "cpu.cfs_quota_us", signed(cpu.quota())),
        ("linux.resources.cpu.idle", "cpu.idle", limits::idle(cpu)?.map(|v| v.to_string())),
    ];
    for (field, file, value) in files {
        let Some(value) = value else { continue };
        let write = Write::new(field, "cpu", file, value).or_retry();
        // KERNEL(5.14): older kernels have no burst, and runc continues without it.
        limits.writes.push(if file == "cpu.cfs_burst_us" { write.or_skip() } else { write });
    }
    Ok(())
}

fn add_io(limits: &mut Limits, io: &LinuxBlockIo) -> Result<()> {
    let write = |field, file: &'static str, value: String| Write::new(field, "blkio", file, value);
    if let Some(weight) = limits::weight("weight", io.weight())? {
        let write = write("linux.resources.blockIO.weight", "blkio.weight", weight.to_string());
        limits.writes.push(write.or_instead("blkio.bfq.weight", weight));
    }
    if let Some(weight) = limits::weight("leafWeight", io.leaf_weight())? {
        let field = "linux.resources.blockIO.leafWeight";
        limits.writes.push(write(field, "blkio.leaf_weight", weight.to_string()));
    }
    for (at, own) in io.weight_device().iter().flatten().enumerate() {
        let name = format!("weightDevice[{at}]");
        let device = limits::device(&name, own.major(), own.minor())?;
        let field = "linux.resources.blockIO.weightDevice";
        if let Some(weight) = limits::weight(&name, own.weight())? {
            let line = format!("{device} {weight}");
            let write = write(field, "blkio.weight_device", line.clone());
            limits.writes.push(write.or_instead("blkio.bfq.weight_device", line));
        }
        if let Some(weight) = limits::weight(&name, own.leaf_weight())? {
            limits.writes.push(write(field, "blkio.leaf_weight_device", format!("{device} {weight}")));
        }
    }
    limits.writes.extend(limits::throttle_writes(io, |throttle, device, rate| {
        write(throttle.field, throttle.file, format!("{device} {rate}"))
    })?);
    Ok(())
}

fn add_network(limits: &mut Limits, resources: &LinuxResources) -> Result<()> {
    let Some(network) = resources.network() else { return Ok(()) };
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        limits.writes.push(Write::new(
            "linux.resources.network.classID",
            "net_cls",
            "net_cls.classid",
            class,
        ));
    }
    for (at, priority) in network.priorities().iter().flatten().enumerate() {
        let (field, name) = ("linux.resources.network.priorities", priority.name());
        if name.is_empty() || name.chars().any(char::is_whitespace) {
            return Err(Error::invalid(format!(
                "{field}[{at}].name: {name:?} is not the name of an interface"
            )));
        }
        let line = format!("{name} {}", priority.priority());
        limits.writes.push(Write::new(field, "net_prio", "net_prio.ifpriomap", line));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::write::Missing;
    use super::*;

    fn of(json: &str) -> Result<Limits> {
        limits(&serde_json::from_str(json).unwrap())
    }

    #[test]
    fn each_resource_becomes_its_files_in_order() {
        for (json, expected) in [
            ("{}", ""),
            (
                r#"{"memory":{"limit":1000,"reservation":500,"swap":1500,"swappiness":0,"disableOOMKiller":true}}"#,
                "memory/memory.limit_in_bytes=1000; memory/memory.memsw.limit_in_bytes=1500; \
                 memory/memory.soft_limit_in_bytes=500; memory/memory.oom_control=1; memory/memory.swappiness=0",
            ),
            (
                r#"{"memory":{"limit":-1}}"#,
                "memory/memory.limit_in_bytes=-1; memory/memory.memsw.limit_in_bytes=-1",
            ),
            (
                r#"{"cpu":{"shares":512,"quota":50000,"period":100000,"realtimeRuntime":950,
                    "realtimePeriod":1000,"cpus":"0"}}"#,
                "cpuset/cpuset.cpus=0; cpu/cpu.shares=512; cpu/cpu.rt_period_us=1000; \
                 cpu/cpu.rt_runtime_us=950; cpu/cpu.cfs_period_us=100000; cpu/cpu.cfs_quota_us=50000",
            ),
            (
                r#"{"cpu":{"quota":-5,"burst":0,"idle":0}}"#,
                "cpu/cpu.cfs_burst_us=0; cpu/cpu.cfs_quota_us=-1; cpu/cpu.idle=0",
            ),
            (r#"{"pids":{"limit":-7}}"#, "pids/pids.max=max"),
            (
                r#"{"blockIO":{"weight":100,"leafWeight":20,
                    "weightDevice":[{"major":8,"minor":0,"weight":500,"leafWeight":30}],
                    "throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":7}]}}"#,
                "blkio/blkio.weight=100; blkio/blkio.leaf_weight=20; blkio/blkio.weight_device=8:0 500; \
                 blkio/blkio.leaf_weight_device=8:0 30; blkio/blkio.throttle.write_bps_device=8:0 7",
            ),
            (
                r#"{"hugepageLimits":[{"pageSize":"1GB","limit":0}]}"#,
                "hugetlb/hugetlb.1GB.limit_in_bytes=0; hugetlb/hugetlb.1GB.rsvd.limit_in_bytes=0",
            ),
            (
                r#"{"network":{"classID":1048577,"priorities":[{"name":"eth0","priority":5}]}}"#,
                "net_cls/net_cls.classid=1048577; net_prio/net_prio.ifpriomap=eth0 5",
            ),
        ] {
            let limits = of(json).unwrap();
            let said = |w: &Write| format!("{}/{}={}", w.controller, w.file, w.value);
            assert_eq!(limits.writes.iter().map(said).collect::<Vec<_>>().join("; "), expected, "{json}");
        }
    }

    #[test]
    fn bad_values_name_their_field() {
        for (json, field) in [
            (r#"{"unified":{"memory.max":"1"}}"#, "linux.resources.unified"),
            (r#"{"cpu":{"shares":1}}"#, "linux.resources.cpu.shares"),
            (r#"{"cpu":{"shares":262145}}"#, "linux.resources.cpu.shares"),
            (r#"{"memory":{"swappiness":101}}"#, "linux.resources.memory.swappiness"),
            (r#"{"memory":{"limit":10,"swap":9}}"#, "linux.resources.memory.swap"),
            (r#"{"network":{"priorities":[{"name":"a b","priority":1}]}}"#, "network.priorities[0].name"),
        ] {
            assert!(of(json).unwrap_err().to_string().contains(field), "{json}");
        }
    }

    #[test]
    fn bounded_pairs_are_retried() {
        let limits = of(r#"{"memory":{"limit":10,"swap":20},"cpu":{"quota":5000,"period":5000}}"#).unwrap();
        assert!(limits.writes.iter().all(|w| w.retry), "{limits:?}");
        assert_eq!(of(r#"{"memory":{"limit":-1}}"#).unwrap().writes[1].missing, Missing::Skip);
    }
}
