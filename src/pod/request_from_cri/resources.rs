//! Resource limits.

use oci_spec::runtime::{LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxResources};

use coracle_cri::v1;

use crate::error::{Error, Result};

/// Parses the cgroup's limits and the OOM score adjustment (proc_pid_oom_score_adj(5)); 0 means not set.
///
/// # Errors
/// `Invalid`, naming the field.
pub(in crate::pod) fn resources(
    limits: Option<&v1::LinuxContainerResources>,
) -> Result<(LinuxResources, i32)> {
    let mut cgroup = LinuxResources::default();
    // oci-spec's default has a device rule; the rules for devices are not part of a container's limits.
    cgroup.set_devices(None);
    let Some(limits) = limits else { return Ok((cgroup, 0)) };
    cgroup.set_cpu(Some(cpu(limits)?).filter(|c| *c != LinuxCpu::default()));
    cgroup.set_memory(Some(memory(limits)?).filter(|m| *m != LinuxMemory::default()));
    let pages = limits.hugepage_limits.iter().map(hugepages).collect::<Result<Vec<_>>>()?;
    cgroup.set_hugepage_limits((!pages.is_empty()).then_some(pages));
    if let Some(key) = limits.unified.keys().find(|k| !is_cgroup_file(k)) {
        return Err(Error::invalid(format!("unified: {key:?} is not the name of a cgroup file")));
    }
    let unified = limits.unified.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    cgroup.set_unified((!limits.unified.is_empty()).then_some(unified));
    Ok((cgroup, oom_score_adj(limits.oom_score_adj)?))
}

/// The limits in force, for the status of a container: without a limit of its own, swap has the one of memory.
pub(in crate::pod) fn in_force(
    limits: &v1::LinuxContainerResources,
    limits_swap: bool,
) -> v1::LinuxContainerResources {
    let swap = match limits.memory_swap_limit_in_bytes {
        _ if !limits_swap => 0,
        0 => limits.memory_limit_in_bytes,
        swap => swap,
    };
    v1::LinuxContainerResources { memory_swap_limit_in_bytes: swap, ..limits.clone() }
}

fn cpu(limits: &v1::LinuxContainerResources) -> Result<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(positive("cpu_shares", limits.cpu_shares)?)
        .set_period(positive("cpu_period", limits.cpu_period)?)
        .set_quota(or_unlimited("cpu_quota", limits.cpu_quota)?)
        .set_cpus(Some(limits.cpuset_cpus.clone()).filter(|s| !s.is_empty()))
        .set_mems(Some(limits.cpuset_mems.clone()).filter(|s| !s.is_empty()));
    Ok(cpu)
}

fn memory(limits: &v1::LinuxContainerResources) -> Result<LinuxMemory> {
    let limit = or_unlimited("memory_limit_in_bytes", limits.memory_limit_in_bytes)?;
    let swap = or_unlimited("memory_swap_limit_in_bytes", limits.memory_swap_limit_in_bytes)?;
    if let (Some(limit), Some(swap)) = (limit, swap)
        && 0 < swap
        && swap < limit
    {
        return Err(Error::invalid(format!(
            "memory_swap_limit_in_bytes {swap} is below memory_limit_in_bytes {limit}, which it includes"
        )));
    }
    let mut memory = LinuxMemory::default();
    memory.set_limit(limit).set_swap(swap);
    Ok(memory)
}

fn hugepages(limit: &v1::HugepageLimit) -> Result<LinuxHugepageLimit> {
    let digits = limit.page_size.bytes().take_while(u8::is_ascii_digit).count();
    if digits == 0 || !["KB", "MB", "GB"].contains(&&limit.page_size[digits..]) {
        return Err(Error::invalid(format!("hugepage_limits: {:?} is not a page size", limit.page_size)));
    }
    let mut pages = LinuxHugepageLimit::default();
    // The kernel's page counters cannot exceed the largest signed number.
    let bytes = i64::try_from(limit.limit).unwrap_or(i64::MAX);
    pages.set_page_size(limit.page_size.clone()).set_limit(bytes);
    Ok(pages)
}

fn positive(field: &str, value: i64) -> Result<Option<u64>> {
    let number = u64::try_from(value).map_err(|_| Error::invalid(format!("{field} {value} is negative")))?;
    Ok(Some(number).filter(|n| *n != 0))
}

/// A limit where -1 means no limit; other negative numbers are refused.
fn or_unlimited(field: &str, value: i64) -> Result<Option<i64>> {
    if value < -1 {
        return Err(Error::invalid(format!("{field} {value} is negative; -1 means no limit")));
    }
    Ok(Some(value).filter(|n| *n != 0))
}

fn oom_score_adj(value: i64) -> Result<i32> {
    i32::try_from(value)
        .ok()
        .filter(|n| (-1000..=1000).contains(n))
        .ok_or_else(|| Error::invalid(format!("oom_score_adj {value} is not between -1000 and 1000")))
}

fn is_cgroup_file(key: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    key.contains('.') && !key.starts_with('.') && key.bytes().all(plain)
}
