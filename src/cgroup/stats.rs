//! Resource usage of a cgroup.

use std::collections::BTreeMap;
use std::io;

use super::Mode;
use super::dir::{Dir, is_gone};
use super::group::Group;
use crate::error::{Doing, Result};

/// The resources a container has used; a part is `None` where its controller is disabled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Processor time.
    pub cpu: Option<Cpu>,
    /// Memory.
    pub memory: Option<Memory>,
    /// Processes and threads.
    pub pids: Option<Pids>,
}

/// Processor time since the group was created, in nanoseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cpu {
    /// User and kernel time together.
    pub usage_ns: u64,
    /// Time in user space.
    pub user_ns: u64,
    /// Time in the kernel.
    pub system_ns: u64,
    /// Quota periods in which a process ran.
    pub periods: u64,
    /// Quota periods in which the quota was used up.
    pub throttled_periods: u64,
    /// How long processes were throttled.
    pub throttled_ns: u64,
}

/// Memory, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Memory {
    /// Current usage, including page cache.
    pub usage: u64,
    /// The highest usage so far; on v2 since KERNEL(5.19).
    pub peak: Option<u64>,
    /// The limit.
    pub limit: Option<u64>,
    /// Current memory and swap, where swap is accounted.
    pub swap_usage: Option<u64>,
    /// The limit of memory and swap together.
    pub swap_limit: Option<u64>,
    /// How often the limit was hit.
    pub failures: u64,
    /// The values of memory.stat.
    pub raw: BTreeMap<String, u64>,
}

impl Memory {
    /// Memory that cannot be reclaimed at once: usage without the inactive page cache, as kubelet computes it.
    pub fn working_set(&self) -> u64 {
        let idle = self.raw.get("total_inactive_file").or_else(|| self.raw.get("inactive_file"));
        self.usage.saturating_sub(idle.copied().unwrap_or(0))
    }
}

/// Processes and threads.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pids {
    /// The current number.
    pub current: u64,
    /// The highest number allowed.
    pub limit: Option<u64>,
}

impl Group {
    /// Reads the statistics.
    ///
    /// # Errors
    /// `NotFound` when the group is gone.
    pub fn stats(&self) -> Result<Stats> {
        match self.mode() {
            Mode::V1 => {
                let part = |controller: &str| {
                    self.paths().contains_key(controller).then(|| self.open(controller)).transpose()
                };
                let (cpu, account) = (part("cpu")?, part("cpuacct")?);
                let cpu = account.as_ref().map(|account| v1_cpu(account, cpu.as_ref())).transpose();
                let memory = part("memory")?.as_ref().map(v1_memory).transpose();
                let pids = part("pids")?.as_ref().map(pids).transpose();
                let doing = || "read the statistics of the cgroup";
                Ok(Stats { cpu: cpu.doing(doing)?, memory: memory.doing(doing)?, pids: pids.doing(doing)? })
            }
            Mode::V2 => {
                let dir = self.dir()?;
                let doing = || format!("read the statistics of cgroup {}", dir.path().display());
                Ok(Stats {
                    cpu: Some(v2_cpu(dir).doing(doing)?),
                    memory: present(v2_memory(dir)).doing(doing)?,
                    pids: present(pids(dir)).doing(doing)?,
                })
            }
        }
    }
}

/// A missing file means that the controller is disabled.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// A file of lines `key value`.
fn table(dir: &Dir, file: &str) -> io::Result<BTreeMap<String, u64>> {
    let text = dir.read(file)?;
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.filter_map(|(key, value)| Some((key.to_owned(), value.trim().parse().ok()?))).collect())
}

/// A file of one number; "max" is `None`.
fn number(dir: &Dir, file: &str) -> io::Result<Option<u64>> {
    match dir.read(file)?.trim() {
        "max" => Ok(None),
        text => text.parse().map(Some).map_err(|_| io::ErrorKind::InvalidData.into()),
    }
}

fn optional(dir: &Dir, file: &str) -> io::Result<Option<u64>> {
    match number(dir, file) {
        Err(error) if is_gone(&error) => Ok(None),
        other => other,
    }
}

fn pids(dir: &Dir) -> io::Result<Pids> {
    Ok(Pids { current: number(dir, "pids.current")?.unwrap_or(0), limit: number(dir, "pids.max")? })
}

fn v2_cpu(dir: &Dir) -> io::Result<Cpu> {
    let stat = table(dir, "cpu.stat")?;
    let value = |key: &str| stat.get(key).copied().unwrap_or(0);
    let ns = |key: &str| value(key).saturating_mul(1000);
    Ok(Cpu {
        usage_ns: ns("usage_usec"),
        user_ns: ns("user_usec"),
        system_ns: ns("system_usec"),
        periods: value("nr_periods"),
        throttled_periods: value("nr_throttled"),
        throttled_ns: ns("throttled_usec"),
    })
}

fn v2_memory(dir: &Dir) -> io::Result<Memory> {
    let usage = number(dir, "memory.current")?.unwrap_or(0);
    let limit = number(dir, "memory.max")?;
    let swap = optional(dir, "memory.swap.current")?;
    let swap_limit = optional(dir, "memory.swap.max")?;
    Ok(Memory {
        usage,
        peak: optional(dir, "memory.peak")?,
        limit,
        swap_usage: swap.map(|swap| swap.saturating_add(usage)),
        swap_limit: swap_limit.zip(limit).map(|(swap, memory)| swap.saturating_add(memory)),
        failures: dir.value_of("memory.events", "max ")?.unwrap_or(0),
        raw: table(dir, "memory.stat")?,
    })
}

fn v1_cpu(account: &Dir, cpu: Option<&Dir>) -> io::Result<Cpu> {
    let stat = cpu.map(|dir| table(dir, "cpu.stat")).transpose()?.unwrap_or_default();
    let value = |key: &str| stat.get(key).copied().unwrap_or(0);
    Ok(Cpu {
        usage_ns: number(account, "cpuacct.usage")?.unwrap_or(0),
        user_ns: optional(account, "cpuacct.usage_user")?.unwrap_or(0),
        system_ns: optional(account, "cpuacct.usage_sys")?.unwrap_or(0),
        periods: value("nr_periods"),
        throttled_periods: value("nr_throttled"),
        throttled_ns: value("throttled_time"),
    })
}

fn v1_memory(dir: &Dir) -> io::Result<Memory> {
    // v1 shows "no limit" as the largest number of pages.
    let limit = |value: Option<u64>| value.filter(|bytes| *bytes < 1 << 62);
    Ok(Memory {
        usage: number(dir, "memory.usage_in_bytes")?.unwrap_or(0),
        peak: number(dir, "memory.max_usage_in_bytes")?,
        limit: limit(number(dir, "memory.limit_in_bytes")?),
        swap_usage: optional(dir, "memory.memsw.usage_in_bytes")?,
        swap_limit: limit(optional(dir, "memory.memsw.limit_in_bytes")?),
        failures: number(dir, "memory.failcnt")?.unwrap_or(0),
        raw: table(dir, "memory.stat")?,
    })
}
