//! The metrics of a running container.

use std::collections::BTreeMap;
use std::path::Path;

use coracle_cri::v1;

use super::descriptors as d;
use super::{Metric, Samples, processes};
use crate::cgroup::{Cpu, Group, Memory, Pressure, Stats};

/// What is known of a container without its cgroup.
#[derive(Debug)]
pub(super) struct Facts {
    /// The PID of its init process.
    pub(super) pid: i32,
    /// When it was started, in nanoseconds since 1970.
    pub(super) started_ns: i64,
    /// Now, in the same unit.
    pub(super) now_ns: i64,
    /// The limits in force.
    pub(super) limits: v1::LinuxContainerResources,
    /// The size of its writable layer in bytes, if it was measured.
    pub(super) layer_bytes: Option<u64>,
}

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;

/// Adds all metrics of a container.
pub(super) fn add(samples: &mut Samples, facts: &Facts, group: &Group, stats: &Stats) {
    if let Some(cpu) = &stats.cpu {
        add_cpu(samples, cpu);
    }
    if let Some(memory) = &stats.memory {
        add_memory(samples, memory, group.kernel_memory());
    }
    samples.add(&d::OOM_EVENTS, [], group.oom_kills().unwrap_or(0));
    add_io(samples, group);
    add_huge_pages(samples, group);
    add_processes(samples, facts, group, stats);
    add_limits(samples, &facts.limits);
    add_pressure(samples, group);
    samples.add(&d::LAST_SEEN, [], seconds(facts.now_ns));
    samples.add(&d::START_TIME, [], seconds(facts.started_ns));
}

fn seconds(nanoseconds: i64) -> u64 {
    u64::try_from(nanoseconds).unwrap_or(0) / NANOS
}

/// Messages have whole numbers only, so that seconds are cut, as by containerd and CRI-O.
fn add_cpu(samples: &mut Samples, cpu: &Cpu) {
    samples.add(&d::CPU_USER, [], cpu.user_ns / NANOS);
    samples.add(&d::CPU_SYSTEM, [], cpu.system_ns / NANOS);
    samples.add(&d::CPU_USAGE, ["total"], cpu.usage_ns / NANOS);
    samples.add(&d::CPU_PERIODS, [], cpu.periods);
    samples.add(&d::CPU_THROTTLED_PERIODS, [], cpu.throttled_periods);
    samples.add(&d::CPU_THROTTLED, [], cpu.throttled_ns / NANOS);
}

fn add_memory(samples: &mut Samples, memory: &Memory, v1_kernel: Option<u64>) {
    let value = |names: [&str; 2]| names.iter().find_map(|name| memory.raw.get(*name)).copied().unwrap_or(0);
    let swap = || memory.swap_usage.map_or(0, |both| both.saturating_sub(memory.usage));
    samples.add(&d::MEMORY_CACHE, [], value(["total_cache", "file"]));
    samples.add(&d::MEMORY_RSS, [], value(["total_rss", "anon"]));
    samples.add(&d::MEMORY_KERNEL, [], v1_kernel.unwrap_or_else(|| kernel(&memory.raw)));
    samples.add(&d::MEMORY_MAPPED, [], value(["total_mapped_file", "file_mapped"]));
    samples.add(&d::MEMORY_SWAP, [], memory.raw.get("total_swap").copied().unwrap_or_else(swap));
    samples.add(&d::MEMORY_USAGE, [], memory.usage);
    samples.add(&d::MEMORY_MAX, [], memory.peak.unwrap_or(0));
    samples.add(&d::MEMORY_WORKING_SET, [], memory.working_set());
    samples.add(&d::MEMORY_ACTIVE_FILE, [], value(["total_active_file", "active_file"]));
    samples.add(&d::MEMORY_INACTIVE_FILE, [], value(["total_inactive_file", "inactive_file"]));
    samples.add(&d::MEMORY_FAILCNT, [], memory.failures);
    for (kind, own, all) in
        [("pgfault", "pgfault", "total_pgfault"), ("pgmajfault", "pgmajfault", "total_pgmajfault")]
    {
        samples.add(&d::MEMORY_FAILURES, [kind, "container"], value([own, own]));
        // v2 counts only the whole.
        samples.add(&d::MEMORY_FAILURES, [kind, "hierarchy"], value([all, own]));
    }
}

/// v2: memory of the kernel, KERNEL(5.18); before, the sum of its parts.
fn kernel(raw: &BTreeMap<String, u64>) -> u64 {
    let parts = ["kernel_stack", "pagetables", "sec_pagetables", "percpu", "vmalloc", "slab"];
    let sum = || parts.iter().filter_map(|part| raw.get(*part)).sum();
    raw.get("kernel").copied().unwrap_or_else(sum)
}

fn add_io(samples: &mut Samples, group: &Group) {
    for io in group.device_io() {
        let (major, minor) = io.device;
        let device = device_name(major, minor);
        let own = [device.as_str()];
        let value = |from: &BTreeMap<String, u64>, operation: &str| from.get(operation).copied().unwrap_or(0);
        samples.add(&d::FS_READ_BYTES, own, value(&io.bytes, "Read"));
        samples.add(&d::FS_WRITE_BYTES, own, value(&io.bytes, "Write"));
        samples.add(&d::FS_READS, own, value(&io.requests, "Read"));
        samples.add(&d::FS_WRITES, own, value(&io.requests, "Write"));
        let numbers = (major.to_string(), minor.to_string());
        for (operation, bytes) in &io.bytes {
            samples.add(&d::BLKIO, [&device, &numbers.0, &numbers.1, operation], *bytes);
        }
    }
}

/// The path of a block device; empty for a filesystem without one.
pub(super) fn device_name(major: u32, minor: u32) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).unwrap_or_default();
    link.file_name().map_or_else(String::new, |name| format!("/dev/{}", name.display()))
}

/// Adds what is known of the filesystem that a container's writable layer is on.
pub(super) fn add_filesystem(samples: &mut Samples, layers: &Path, layer_bytes: Option<u64>) {
    use std::os::unix::fs::MetadataExt;
    let (Ok(meta), Ok(filesystem)) = (layers.metadata(), rustix::fs::statvfs(layers)) else { return };
    let numbers = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    let device = device_name(numbers.0, numbers.1);
    let own = [device.as_str()];
    samples.add(&d::FS_INODES_FREE, own, filesystem.f_ffree);
    samples.add(&d::FS_INODES_TOTAL, own, filesystem.f_files);
    samples.add(&d::FS_LIMIT, own, filesystem.f_blocks.saturating_mul(filesystem.f_frsize));
    samples.add(&d::FS_USAGE, own, layer_bytes.unwrap_or(0));
}

fn add_huge_pages(samples: &mut Samples, group: &Group) {
    for pages in group.huge_pages() {
        samples.add(&d::HUGETLB, [&pages.size], pages.usage);
        if let Some(peak) = pages.peak {
            samples.add(&d::HUGETLB_MAX, [&pages.size], peak);
        }
    }
}

fn add_processes(samples: &mut Samples, facts: &Facts, group: &Group, stats: &Stats) {
    let pids = group.pids().unwrap_or_default();
    let open = processes::open_by(&pids);
    samples.add(&d::PROCESSES, [], pids.len() as u64);
    samples.add(&d::FILE_DESCRIPTORS, [], open.descriptors);
    samples.add(&d::SOCKETS, [], open.sockets);
    samples.add(&d::THREADS, [], stats.pids.map_or(open.threads, |pids| pids.current));
    samples.add(&d::THREADS_MAX, [], stats.pids.and_then(|pids| pids.limit).unwrap_or(0));
    if let Some(limit) = processes::open_files_limit(facts.pid) {
        samples.add(&d::ULIMITS, ["max_open_files"], limit);
    }
}

/// The kernel's defaults, which are in force where kubelet sets nothing.
const CPU_PERIOD: u64 = 100_000;
const CPU_SHARES: u64 = 1024;

fn add_limits(samples: &mut Samples, limits: &v1::LinuxContainerResources) {
    let value = |value: i64| u64::try_from(value).unwrap_or(0);
    let or = |value: u64, default: u64| if value == 0 { default } else { value };
    samples.add(&d::SPEC_CPU_PERIOD, [], or(value(limits.cpu_period), CPU_PERIOD));
    samples.add(&d::SPEC_CPU_SHARES, [], or(value(limits.cpu_shares), CPU_SHARES));
    samples.add(&d::SPEC_CPU_QUOTA, [], value(limits.cpu_quota));
    samples.add(&d::SPEC_MEMORY_LIMIT, [], value(limits.memory_limit_in_bytes));
    let reserved = limits.unified.get("memory.low").and_then(|text| text.parse().ok());
    samples.add(&d::SPEC_MEMORY_RESERVATION, [], reserved.unwrap_or(0));
    samples.add(&d::SPEC_MEMORY_SWAP, [], value(limits.memory_swap_limit_in_bytes));
}

fn add_pressure(samples: &mut Samples, group: &Group) {
    let mut add = |waiting: &Metric<0>, stalled: &Metric<0>, pressure: Option<Pressure>| {
        if let Some(pressure) = pressure {
            samples.add(waiting, [], pressure.some.total_us / MICROS);
            samples.add(stalled, [], pressure.full.total_us / MICROS);
        }
    };
    add(&d::PRESSURE_CPU_WAITING, &d::PRESSURE_CPU_STALLED, group.pressure("cpu"));
    add(&d::PRESSURE_MEMORY_WAITING, &d::PRESSURE_MEMORY_STALLED, group.pressure("memory"));
    add(&d::PRESSURE_IO_WAITING, &d::PRESSURE_IO_STALLED, group.pressure("io"));
}
