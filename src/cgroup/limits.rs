//! Converts `linux.resources` to writes: the code common to both versions. [`super::limits_v1`] and
//! [`super::limits_v2`] have the rest.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice};

use super::write::Write;
use super::{Mode, limits_v1, limits_v2};
use crate::error::{Error, Result};

/// The limits of a container, ready to be written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits {
    /// In the order of writing.
    pub writes: Vec<Write>,
    /// Fields that the spec sets but this cgroup version does not have; runc ignores the same ones silently.
    pub ignored: Vec<&'static str>,
    /// The limit is set only while memory usage is below this many bytes: `checkBeforeUpdate` on v2 (v1 refuses by
    /// itself).
    pub usage_below: Option<u64>,
}

/// Controllers whose absence a kubelet does not know of: it sends a limit for each size of huge pages with every container.
const OPTIONAL: [&str; 4] = ["hugetlb", "pids", "blkio", "io"];

/// The files of swap limits: the memory controller has them only where swap is accounted.
const SWAP: [&str; 2] = ["memory.memsw.limit_in_bytes", "memory.swap.max"];

/// The files of memory limits.
const MEMORY: [&str; 2] = ["memory.limit_in_bytes", "memory.max"];

/// The beginning of the field of files that the caller names.
const UNIFIED: &str = "linux.resources.unified";

impl Limits {
    /// The limits for a pod, as containerd sets them. Limits of an optional controller, and of swap, are left out where the host
    /// or the parent cgroup does not have it: what is not counted cannot be limited. Files that the caller names (`unified`) are
    /// not optional. A limit of memory without one of swap limits both together, so that the container does not swap.
    #[must_use]
    pub(crate) fn tolerant(mut self) -> Self {
        self.writes.extend(self.swap_as_memory());
        for write in &mut self.writes {
            let is_named = write.field.starts_with(UNIFIED);
            let is_optional = OPTIONAL.contains(&&*write.controller) || SWAP.contains(&&*write.file);
            write.optional = is_optional && !is_named;
        }
        self
    }

    /// The write that keeps a container with a limit of memory from swapping; none if swap has a limit.
    fn swap_as_memory(&self) -> Option<Write> {
        if self.writes.iter().any(|write| SWAP.contains(&&*write.file)) {
            return None;
        }
        let of_memory = self.writes.iter().find(|write| MEMORY.contains(&&*write.file))?;
        let field = "linux.resources.memory.limit";
        match &*of_memory.file {
            // v1 counts memory and swap together.
            "memory.limit_in_bytes" => {
                Some(Write::new(field, "memory", SWAP[0], &of_memory.value).or_retry())
            }
            _ if of_memory.field.starts_with(UNIFIED) => None,
            _ => Some(Write::new(field, "memory", SWAP[1], 0)),
        }
    }

    /// Converts and checks everything but devices.
    ///
    /// # Errors
    /// `Invalid`, naming the field.
    pub(crate) fn new(resources: &LinuxResources, mode: Mode) -> Result<Self> {
        match mode {
            Mode::V1 => limits_v1::limits(resources),
            Mode::V2 => limits_v2::limits(resources),
        }
    }

    pub(crate) fn ignore_if(&mut self, set: bool, field: &'static str) {
        if set {
            self.ignored.push(field);
        }
    }
}

/// Memory sizes of the spec in bytes: 0 means "not set", -1 "no limit".
pub(crate) struct Memory {
    pub(crate) limit: i64,
    pub(crate) reservation: i64,
    pub(crate) swap: i64,
}

pub(crate) fn memory(memory: &LinuxMemory) -> Result<Memory> {
    let size = |field: &str, value: Option<i64>| match value.unwrap_or(0) {
        value @ -1.. => Ok(value),
        value => {
            let doing = format!("linux.resources.memory.{field}: {value} is neither a size nor -1");
            Err(Error::invalid(doing))
        }
    };
    Ok(Memory {
        limit: size("limit", memory.limit())?,
        reservation: size("reservation", memory.reservation())?,
        swap: size("swap", memory.swap())?,
    })
}

pub(crate) fn has_kernel_memory(memory: &LinuxMemory) -> bool {
    memory.kernel().is_some() || memory.kernel_tcp().is_some()
}

/// `cpu.idle`, checked to be 0 or 1.
pub(crate) fn idle(cpu: &LinuxCpu) -> Result<Option<i64>> {
    match cpu.idle() {
        Some(value) if value != 0 && value != 1 => {
            Err(Error::invalid(format!("linux.resources.cpu.idle: {value} is neither 0 nor 1")))
        }
        other => Ok(other),
    }
}

/// pids.max: a negative number means no limit; 0 is written as 1, because systemd refuses 0 and both mean "no fork".
pub(crate) fn pids(resources: &LinuxResources) -> Option<Write> {
    let value = match resources.pids().as_ref()?.limit() {
        ..0 => "max".to_owned(),
        limit => limit.max(1).to_string(),
    };
    Some(Write::new("linux.resources.pids.limit", "pids", "pids.max", value))
}

/// cpuset.cpus and cpuset.mems, which have the same names in both versions.
pub(crate) fn cpuset(cpu: &LinuxCpu) -> impl Iterator<Item = Write> {
    let write = |field, file, value: &Option<String>| {
        let value = value.as_deref().map(str::trim).filter(|text| !text.is_empty())?;
        Some(Write::new(field, "cpuset", file, value))
    };
    let cpus = write("linux.resources.cpu.cpus", "cpuset.cpus", cpu.cpus());
    let mems = write("linux.resources.cpu.mems", "cpuset.mems", cpu.mems());
    cpus.into_iter().chain(mems)
}

/// A weight of the spec: 10 to 1000; 0 means "not set".
pub(crate) fn weight(field: &str, value: Option<u16>) -> Result<Option<u16>> {
    match value {
        None | Some(0) => Ok(None),
        Some(value @ 10..=1000) => Ok(Some(value)),
        Some(value) => Err(Error::invalid(format!(
            "linux.resources.blockIO.{field}: {value} is not between 10 and 1000"
        ))),
    }
}

/// `major:minor` of a block device, checked.
pub(crate) fn device(field: &str, major: i64, minor: i64) -> Result<String> {
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major), Ok(minor)) => Ok(format!("{major}:{minor}")),
        _ => Err(Error::invalid(format!("linux.resources.blockIO.{field}: {major}:{minor} is no device"))),
    }
}

/// One list of throttled devices.
pub(crate) struct Throttle<'a> {
    /// The field's name in `linux.resources.blockIO`.
    pub(crate) field: &'static str,
    /// The file of v1.
    pub(crate) file: &'static str,
    /// The key in io.max of v2.
    pub(crate) key: &'static str,
    devices: &'a [LinuxThrottleDevice],
}

fn throttles(io: &LinuxBlockIo) -> [Throttle<'_>; 4] {
    let list = |field, file, key, devices| {
        let devices = Option::as_deref(devices).unwrap_or_default();
        Throttle { field, file, key, devices }
    };
    [
        list(
            "linux.resources.blockIO.throttleReadBpsDevice",
            "blkio.throttle.read_bps_device",
            "rbps",
            io.throttle_read_bps_device(),
        ),
        list(
            "linux.resources.blockIO.throttleWriteBpsDevice",
            "blkio.throttle.write_bps_device",
            "wbps",
            io.throttle_write_bps_device(),
        ),
        list(
            "linux.resources.blockIO.throttleReadIOPSDevice",
            "blkio.throttle.read_iops_device",
            "riops",
            io.throttle_read_iops_device(),
        ),
        list(
            "linux.resources.blockIO.throttleWriteIOPSDevice",
            "blkio.throttle.write_iops_device",
            "wiops",
            io.throttle_write_iops_device(),
        ),
    ]
}

/// The throttle writes; `write` creates one from list, device and rate.
pub(crate) fn throttle_writes(
    io: &LinuxBlockIo,
    write: impl Fn(&Throttle<'_>, &str, u64) -> Write,
) -> Result<Vec<Write>> {
    let mut writes = Vec::new();
    for throttle in throttles(io) {
        let field = throttle.field.trim_start_matches("linux.resources.blockIO.");
        for limited in throttle.devices {
            let device = device(field, limited.major(), limited.minor())?;
            writes.push(write(&throttle, &device, limited.rate()));
        }
    }
    Ok(writes)
}

/// Huge page limits; `suffix` is the version's word for "limit". The reservation limit came later (5.7) and is set too
/// where it exists, or a program could reserve pages that it may not touch and die of SIGBUS.
pub(crate) fn hugepages(resources: &LinuxResources, suffix: &str) -> Result<Vec<Write>> {
    const FIELD: &str = "linux.resources.hugepageLimits";
    let mut writes = Vec::new();
    for (at, limit) in resources.hugepage_limits().iter().flatten().enumerate() {
        let size = limit.page_size();
        let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit)).unwrap_or_default();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            let doing = format!("{FIELD}[{at}].pageSize: {size:?} is not a size such as 2MB");
            return Err(Error::invalid(doing));
        }
        if limit.limit() < 0 {
            let doing = format!("{FIELD}[{at}].limit: {} is not a number of bytes", limit.limit());
            return Err(Error::invalid(doing));
        }
        writes.push(Write::new(FIELD, "hugetlb", format!("hugetlb.{size}.{suffix}"), limit.limit()));
        let reserved = format!("hugetlb.{size}.rsvd.{suffix}");
        writes.push(Write::new(FIELD, "hugetlb", reserved, limit.limit()).or_skip());
    }
    Ok(writes)
}

/// rdma.max, the same in both versions: one line for each device, sorted by name.
pub(crate) fn rdma(resources: &LinuxResources) -> Result<Vec<Write>> {
    let mut devices: Vec<_> = resources.rdma().iter().flatten().collect();
    devices.sort_by_key(|(name, _)| *name);
    let mut writes = Vec::new();
    for (name, limit) in devices {
        if name.is_empty() || name.chars().any(char::is_whitespace) {
            return Err(Error::invalid(format!(
                "linux.resources.rdma: {name:?} is not the name of a device"
            )));
        }
        let mut line = name.clone();
        for (key, value) in [("hca_handle", limit.hca_handles()), ("hca_object", limit.hca_objects())] {
            if let Some(value) = value {
                line.push_str(&format!(" {key}={value}"));
            }
        }
        if line != *name {
            writes.push(Write::new("linux.resources.rdma", "rdma", "rdma.max", line));
        }
    }
    Ok(writes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::dir::Dir;
    use crate::cgroup::write::write_all;
    use crate::error::Kind;

    const ALL: &str = r#"{"pids":{"limit":20},"memory":{"limit":1000,"swap":1500},
        "blockIO":{"weight":100,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":7}]},
        "hugepageLimits":[{"pageSize":"2MB","limit":0}]}"#;

    fn limits(json: &str, mode: Mode) -> Limits {
        Limits::new(&serde_json::from_str(json).unwrap(), mode).unwrap()
    }

    #[test]
    fn a_pod_needs_no_controllers_but_those_that_every_node_has() {
        let cgroup = tempfile::tempdir().unwrap();
        for file in ["memory.limit_in_bytes", "memory.max"] {
            std::fs::write(cgroup.path().join(file), "").unwrap();
        }
        let dir = Dir::open(cgroup.path()).unwrap();
        for mode in [Mode::V1, Mode::V2] {
            let limits = limits(ALL, mode);
            // v1 has no hierarchy for an absent controller, v2 no files.
            let dir_of = |name: &str| (mode == Mode::V2 || name == "memory").then_some(&dir);
            assert!(
                write_all(&limits.writes, dir_of).is_err(),
                "{mode:?}: for an OCI bundle they are required"
            );
            write_all(&limits.tolerant().writes, dir_of).unwrap();
        }
        for (file, text) in [("memory.limit_in_bytes", "1000"), ("memory.max", "1000")] {
            assert_eq!(std::fs::read_to_string(cgroup.path().join(file)).unwrap(), text);
        }
    }

    #[test]
    fn an_optional_limit_is_set_where_it_can_be() {
        let cgroup = tempfile::tempdir().unwrap();
        let files = ["pids.max", "memory.max", "memory.swap.max", "io.weight", "io.max", "hugetlb.2MB.max"];
        for file in files {
            std::fs::write(cgroup.path().join(file), "").unwrap();
        }
        let dir = Dir::open(cgroup.path()).unwrap();
        write_all(&limits(ALL, Mode::V2).tolerant().writes, |_| Some(&dir)).unwrap();
        let values = files.map(|file| std::fs::read_to_string(cgroup.path().join(file)).unwrap());
        assert_eq!(values, ["20", "1000", "500", "910", "8:0 rbps=7", "0"]);
    }

    #[test]
    fn a_pods_memory_limit_without_one_of_swap_limits_both() {
        for (json, mode, expected) in [
            (r#"{"memory":{"limit":1000}}"#, Mode::V1, Some(("memory.memsw.limit_in_bytes", "1000"))),
            (r#"{"memory":{"limit":1000}}"#, Mode::V2, Some(("memory.swap.max", "0"))),
            (
                r#"{"memory":{"limit":1000,"swap":1500}}"#,
                Mode::V1,
                Some(("memory.memsw.limit_in_bytes", "1500")),
            ),
            (r#"{"memory":{"limit":1000,"swap":1500}}"#, Mode::V2, Some(("memory.swap.max", "500"))),
            (r#"{"memory":{"limit":-1}}"#, Mode::V2, Some(("memory.swap.max", "max"))),
            (
                r#"{"memory":{"limit":1000},"unified":{"memory.swap.max":"7"}}"#,
                Mode::V2,
                Some(("memory.swap.max", "7")),
            ),
            (r#"{"unified":{"memory.max":"7"}}"#, Mode::V2, None),
            ("{}", Mode::V1, None),
        ] {
            let writes = limits(json, mode).tolerant().writes;
            let swap: Vec<_> = writes.iter().filter(|write| SWAP.contains(&&*write.file)).collect();
            let found = swap.iter().map(|write| (&*write.file, write.value.as_str()));
            assert_eq!(found.collect::<Vec<_>>(), Vec::from_iter(expected), "{json} {mode:?}");
        }
    }

    #[test]
    fn files_that_the_caller_names_are_required() {
        let cgroup = tempfile::tempdir().unwrap();
        let dir = Dir::open(cgroup.path()).unwrap();
        for file in ["pids.max", "io.max", "memory.swap.max", "hugetlb.2MB.max"] {
            let json = format!(r#"{{"unified":{{"{file}":"1"}}}}"#);
            let writes = limits(&json, Mode::V2).tolerant().writes;
            assert_ne!(write_all(&writes, |_| Some(&dir)).unwrap_err().kind(), Kind::Invalid, "{file}");
        }
    }
}
