//! The systemd driver: a container's cgroup as a transient scope.
//!
//! systemd gets the limits as properties, so that it does not undo them when it reloads. Every limit is also written to
//! its file, because properties are rounded and some limits have none. The D-Bus client is that of cgroups-rs; the
//! properties and their values are computed here, as data.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use cgroups_rs::systemd::{Property as BusProperty, SystemdClient};

use super::cgroup_path::CgroupPath;
use super::devices::{self, Kind as DeviceKind, Rule};
use super::group::{Group, enter};
use super::limits::Limits;
use super::made::Made;
use super::plan::Plan;
use super::write::Write;
use super::{Mode, v1, v2};
use crate::error::{Error, Kind, Result};

/// systemd replies before it has moved the process; this is how long to wait for the move.
const START_TIME: Duration = Duration::from_secs(30);
/// "infinity" in properties that hold a size or a time.
const INFINITY: u64 = u64::MAX;

/// The value of a unit's property.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    Flag(bool),
    Number(u64),
    Text(String),
    Mask(Vec<u8>),
    Pids(Vec<u32>),
    Devices(Vec<(String, String)>),
}

type Property = (&'static str, Value);

/// Creates the scope with `pid` as its first process, then the directories that systemd does not create, and sets the
/// limits.
pub(crate) fn start(plan: &Plan, group: &Group, pid: i32) -> Result<()> {
    let CgroupPath::Scope { slice, unit } = &plan.path else {
        return Err(Error::new(Kind::Bug, "a plan for systemd has no scope"));
    };
    need_systemd()?;
    let first = u32::try_from(pid).map_err(|_| Error::invalid(format!("{pid} is not a process")))?;
    let mut properties = scope_properties(slice, unit, plan.mode, first);
    properties.extend(limit_properties(&plan.limits.writes));
    if plan.mode == Mode::V1 {
        properties.extend(device_properties(&plan.devices)?);
    }
    let scope = client(unit, &properties)?;
    scope.start().map_err(|error| {
        let failed = Error::new(Kind::System, format!("start systemd unit {unit}")).because(error);
        match scope.exists() {
            true => failed.hint(format!("if it is left over: systemctl reset-failed {unit}")),
            false => failed,
        }
    })?;
    finish(plan, group, pid).inspect_err(|_| {
        // The failure that led here is the one to report.
        let _ = client(unit, &[]).map(|client| client.stop());
    })
}

fn finish(plan: &Plan, group: &Group, pid: i32) -> Result<()> {
    match plan.mode {
        Mode::V1 => {
            let systemd = group.paths().get("name=systemd");
            systemd.map_or(Ok(()), |path| wait_for(path, pid))?;
            let mut made = Made::default();
            for (controller, path) in group.paths().iter().filter(|(name, _)| *name != "name=systemd") {
                v1::make(&mut made, controller, path)?;
            }
            made.keep();
            v1::fill(plan, group)?;
            group.paths().values().try_for_each(|path| enter(path, pid))
        }
        Mode::V2 => {
            let path = group.paths().get("").map_or(Path::new(""), PathBuf::as_path);
            wait_for(path, pid)?;
            if let Ok(below) = path.strip_prefix(plan.root()) {
                v2::enable(plan.root(), below, &plan.controllers);
            }
            v2::fill(plan, group.dir()?, false)
        }
    }
}

/// Waits until the process is in the scope's cgroup.
fn wait_for(path: &Path, pid: i32) -> Result<()> {
    let deadline = Instant::now() + START_TIME;
    let mut pause = Duration::from_millis(1);
    loop {
        let procs = fs::read_to_string(path.join("cgroup.procs")).unwrap_or_default();
        if procs.lines().any(|line| line.parse() == Ok(pid)) {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let doing = format!("wait for systemd to move process {pid} into {}", path.display());
            return Err(Error::new(Kind::TimedOut, doing).hint("see journalctl and systemctl list-jobs"));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(64));
    }
}

/// Reports changed limits to systemd, if the group is one of its scopes.
pub(crate) fn update(group: &Group, limits: &Limits) -> Result<()> {
    let Some(unit) = scope_of(group) else { return Ok(()) };
    let properties = limit_properties(&limits.writes);
    if properties.is_empty() {
        return Ok(());
    }
    let bus: Vec<BusProperty<'static>> = properties.iter().map(to_bus).collect();
    client(&unit, &[])?.set_properties(&bus).map_err(|error| {
        Error::new(Kind::System, format!("set limits of systemd unit {unit}")).because(error)
    })
}

/// Stops the scope, if the group is one: a failed scope would stay in systemd's list.
pub(crate) fn stop(group: &Group) -> Result<()> {
    let Some(unit) = scope_of(group) else { return Ok(()) };
    client(&unit, &[])?
        .stop()
        .map_err(|error| Error::new(Kind::System, format!("stop systemd unit {unit}")).because(error))
}

/// The unit of a group, recognized by its path: the record does not contain the driver.
fn scope_of(group: &Group) -> Option<String> {
    let path = group.paths().get("").or_else(|| group.paths().get("name=systemd"))?;
    let unit = path.file_name()?.to_str()?.strip_suffix(".scope").map(|name| format!("{name}.scope"))?;
    let in_slice = path.parent()?.file_name()?.to_str()?.ends_with(".slice");
    (in_slice && need_systemd().is_ok()).then_some(unit)
}

fn need_systemd() -> Result<()> {
    // sd_booted(3)
    if Path::new("/run/systemd/system").is_dir() {
        return Ok(());
    }
    let error = Error::new(Kind::Unsupported, "systemd does not run here");
    Err(error.hint("use the cgroupfs driver: leave out --systemd-cgroup, or set cgroup_driver in the daemon's config.toml"))
}

fn client(unit: &str, properties: &[Property]) -> Result<SystemdClient<'static>> {
    SystemdClient::new(unit, properties.iter().map(to_bus).collect())
        .map_err(|error| Error::new(Kind::Bug, format!("properties of systemd unit {unit}")).because(error))
}

fn to_bus((name, value): &Property) -> BusProperty<'static> {
    match value.clone() {
        Value::Flag(value) => (name, value.into()),
        Value::Number(value) => (name, value.into()),
        Value::Text(value) => (name, value.into()),
        Value::Mask(value) => (name, value.into()),
        Value::Pids(value) => (name, value.into()),
        Value::Devices(value) => (name, value.into()),
    }
}

fn scope_properties(slice: &str, unit: &str, mode: Mode, pid: u32) -> Vec<Property> {
    let io = match mode {
        Mode::V1 => "BlockIOAccounting",
        Mode::V2 => "IOAccounting",
    };
    vec![
        ("Description", Value::Text(format!("container {unit}"))),
        ("Slice", Value::Text(slice.to_owned())),
        // systemd leaves the cgroups inside the scope to the container.
        ("Delegate", Value::Flag(true)),
        ("PIDs", Value::Pids(vec![pid])),
        ("MemoryAccounting", Value::Flag(true)),
        ("CPUAccounting", Value::Flag(true)),
        (io, Value::Flag(true)),
        ("TasksAccounting", Value::Flag(true)),
        // Shutdown must not order containers like services.
        ("DefaultDependencies", Value::Flag(false)),
    ]
}

/// The properties that correspond to the files to be written; files without a property are left out.
fn limit_properties(writes: &[Write]) -> Vec<Property> {
    let size = |text: &str| match text {
        "max" | "-1" => Some(INFINITY),
        text => text.parse().ok(),
    };
    let find = |file: &str| writes.iter().find(|w| w.file == file).map(|w| w.value.trim());
    let mut properties = Vec::new();
    for (file, name) in [
        ("memory.max", "MemoryMax"),
        ("memory.high", "MemoryHigh"),
        ("memory.low", "MemoryLow"),
        ("memory.min", "MemoryMin"),
        ("memory.swap.max", "MemorySwapMax"),
        ("memory.limit_in_bytes", "MemoryLimit"),
        ("cpu.weight", "CPUWeight"),
        ("cpu.shares", "CPUShares"),
        ("blkio.weight", "BlockIOWeight"),
        ("pids.max", "TasksMax"),
    ] {
        properties.extend(find(file).and_then(size).map(|value| (name, Value::Number(value))));
    }
    for (file, name) in [("cpuset.cpus", "AllowedCPUs"), ("cpuset.mems", "AllowedMemoryNodes")] {
        properties.extend(find(file).and_then(mask).map(|value| (name, Value::Mask(value))));
    }
    let (quota, period) = match find("cpu.max").map(str::split_ascii_whitespace) {
        Some(mut words) => (words.next(), words.next()),
        None => (find("cpu.cfs_quota_us"), find("cpu.cfs_period_us")),
    };
    properties.extend(quota_properties(quota, period));
    properties
}

/// systemd counts a quota in microseconds per second, and keeps whole percents: rounded up, so that the exact value
/// written to the file afterwards is not above it.
fn quota_properties(quota: Option<&str>, period: Option<&str>) -> Vec<Property> {
    if quota.is_none() && period.is_none() {
        return Vec::new();
    }
    let length = period.and_then(|text| text.parse::<u64>().ok()).filter(|length| *length > 0);
    let per_second = match quota.and_then(|text| text.parse::<u64>().ok()) {
        Some(quota) => {
            (u128::from(quota) * 1_000_000 / u128::from(length.unwrap_or(100_000))).div_ceil(10_000) * 10_000
        }
        None => u128::from(INFINITY),
    };
    let mut properties = Vec::new();
    properties.extend(length.map(|length| ("CPUQuotaPeriodUSec", Value::Number(length))));
    properties.push(("CPUQuotaPerSecUSec", Value::Number(u64::try_from(per_second).unwrap_or(INFINITY))));
    properties
}

/// A list such as `0-3,8` as a bit mask, lowest byte first; `None` for an invalid list.
fn mask(list: &str) -> Option<Vec<u8>> {
    let mut bytes: Vec<u8> = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        // Far beyond any machine, and a bound for the memory used here.
        if first > last || last > 0xffff {
            return None;
        }
        bytes.resize(bytes.len().max(last / 8 + 1), 0);
        for bit in first..=last {
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    (!bytes.is_empty()).then_some(bytes)
}

/// On v1 systemd writes the devices cgroup of its units, also when it reloads, so it must know the rules. It knows only
/// lists of allowed devices, and no wildcard major with a minor: such rules are only in the files.
fn device_properties(rules: &[Rule]) -> Result<Vec<Property>> {
    let (default, exceptions) = devices::exceptions(rules)?;
    if default {
        return Ok(vec![
            ("DeviceAllow", Value::Devices(Vec::new())),
            ("DevicePolicy", Value::Text("auto".to_owned())),
        ]);
    }
    let entry = |rule: &Rule| {
        let kind = if rule.kind == Some(DeviceKind::Block) { "block" } else { "char" };
        let path = match (rule.major, rule.minor) {
            (None, None) => format!("{kind}-*"),
            (Some(major), None) => format!("{kind}-{major}"),
            (Some(major), Some(minor)) => format!("/dev/{kind}/{major}:{minor}"),
            (None, Some(_)) => return None,
        };
        Some((path, devices::letters(rule.access)))
    };
    let allowed = exceptions.iter().filter_map(entry).collect();
    Ok(vec![("DevicePolicy", Value::Text("strict".to_owned())), ("DeviceAllow", Value::Devices(allowed))])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(json: &str, mode: Mode) -> Vec<Property> {
        limit_properties(&Limits::new(&serde_json::from_str(json).unwrap(), mode).unwrap().writes)
    }

    #[test]
    fn limits_become_properties() {
        let json = r#"{"memory":{"limit":1000,"swap":3000,"reservation":10},"pids":{"limit":-1},
            "cpu":{"shares":1024,"quota":15500,"period":100000,"cpus":"0-4,9","mems":"0"}}"#;
        assert_eq!(
            properties(json, Mode::V2),
            [
                ("MemoryMax", Value::Number(1000)),
                ("MemoryLow", Value::Number(10)),
                ("MemorySwapMax", Value::Number(2000)),
                ("CPUWeight", Value::Number(100)),
                ("TasksMax", Value::Number(INFINITY)),
                ("AllowedCPUs", Value::Mask(vec![0x1f, 0x02])),
                ("AllowedMemoryNodes", Value::Mask(vec![1])),
                ("CPUQuotaPeriodUSec", Value::Number(100_000)),
                ("CPUQuotaPerSecUSec", Value::Number(160_000)),
            ]
        );
        let json = r#"{"memory":{"limit":-1},"cpu":{"shares":512,"quota":-1}}"#;
        assert_eq!(
            properties(json, Mode::V1),
            [
                ("MemoryLimit", Value::Number(INFINITY)),
                ("CPUShares", Value::Number(512)),
                ("CPUQuotaPerSecUSec", Value::Number(INFINITY)),
            ]
        );
        assert_eq!(properties(r#"{"unified":{"memory.high":"max","cpu.max":"x"}}"#, Mode::V2).len(), 2);
        assert_eq!(properties("{}", Mode::V2), []);
    }

    #[test]
    fn masks_have_their_lowest_byte_first() {
        for (list, expected) in [
            ("0", Some(vec![1])),
            ("1,7", Some(vec![0x82])),
            ("8", Some(vec![0, 1])),
            ("2-4,", Some(vec![0x1c])),
            ("4-2", None),
            ("", None),
            ("a", None),
            ("0-99999999999", None),
            ("99999999", None),
        ] {
            assert_eq!(mask(list), expected, "{list}");
        }
    }

    #[test]
    fn device_rules_become_a_list_of_what_is_allowed() {
        let found = device_properties(&devices::DEFAULT_ALLOWED).unwrap();
        assert_eq!(found[0], ("DevicePolicy", Value::Text("strict".to_owned())));
        let Value::Devices(list) = &found[1].1 else { panic!("{found:?}") };
        for (path, access) in
            [("char-*", "m"), ("block-*", "m"), ("/dev/char/1:3", "rwm"), ("char-136", "rwm")]
        {
            assert!(list.contains(&(path.to_owned(), access.to_owned())), "{path}");
        }
        let all = Rule { allow: true, kind: None, major: None, minor: None, access: devices::ALL };
        assert_eq!(device_properties(&[all]).unwrap()[1], ("DevicePolicy", Value::Text("auto".to_owned())));
    }

    #[test]
    fn values_have_the_types_that_systemd_expects() {
        for (value, signature) in [
            (Value::Flag(true), "Bool(true)"),
            (Value::Number(7), "U64(7)"),
            (Value::Text("x".to_owned()), "Str("),
            (Value::Mask(vec![1]), "U8(1)"),
            (Value::Pids(vec![9]), "U32(9)"),
            (Value::Devices(vec![("/dev/char/1:3".to_owned(), "rw".to_owned())]), "Structure("),
        ] {
            let text = format!("{:?}", to_bus(&("Name", value)).1);
            assert!(text.contains(signature), "{text}");
        }
    }
}
