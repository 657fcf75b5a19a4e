//! Creating a cgroup on v2 with as few system calls as possible: without limits these are mkdir, open, and the two
//! bpf(2) calls of the device filter.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::cgroup_path::CgroupPath;
use super::dir::Dir;
use super::group::Group;
use super::made::{Made, Note, refuse_used};
use super::plan::Plan;
use super::write::write_all;
use super::{Mode, filter};
use crate::error::{Doing, Error, Kind, Result};

/// Creates the plan's cgroup below `root`, the mount of the hierarchy.
pub(crate) fn create(plan: &Plan, root: &Path, note: Note<'_>) -> Result<Group> {
    let below = plan.path.below_root(&own(&plan.path)?)?;
    let mut made = Made::default();
    let path = root.join(&below);
    let paths = BTreeMap::from([(String::new(), path)]);
    note(&paths)?;
    let path = &paths[""];
    let new = make_path(&mut made, root, &below)?;
    let refused = enable(root, &below, &plan.controllers);
    let dir = Dir::open(path).doing(|| format!("open cgroup {}", path.display()))?;
    let group = Group::new(Mode::V2, paths, root, Some(dir));
    if new {
        group.set_pinned(plan.controllers.iter().any(|name| name == "cpuset"));
    } else {
        refuse_used(&group)?;
    }
    fill(plan, group.dir()?, !new).map_err(|error| explain_missing(error, refused))?;
    made.keep();
    Ok(group)
}

/// Writes limits and the device filter. With `replace` the cgroup may have an older filter.
pub(crate) fn fill(plan: &Plan, dir: &Dir, replace: bool) -> Result<()> {
    check_usage(dir, plan.limits.usage_below)?;
    write_all(&plan.limits.writes, |_| Some(dir))?;
    filter::apply(dir.as_fd(), &plan.devices, replace)
}

/// The parent of the runtime's own cgroup, for a path relative to it.
fn own(path: &CgroupPath) -> Result<PathBuf> {
    if !matches!(path, CgroupPath::Own(_)) {
        return Ok(PathBuf::new());
    }
    let text = fs::read_to_string("/proc/self/cgroup").doing(|| "read /proc/self/cgroup")?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    Ok(Path::new(own).parent().unwrap_or(Path::new("/")).to_owned())
}

/// Creates the directories of `below`. `Ok(true)` when the last one is new.
fn make_path(made: &mut Made, root: &Path, below: &Path) -> Result<bool> {
    let path = root.join(below);
    // The usual case: the parents exist.
    match made.dir(&path) {
        Err(error) if error.kind() == Kind::NotFound => {}
        other => return other,
    }
    let mut new = false;
    let mut next = root.to_owned();
    for part in below {
        next.push(part);
        new = made.dir(&next)?;
    }
    Ok(new)
}

/// Enables the controllers in every ancestor. A failure is returned, not raised: the write of the limit that needs the
/// controller reports it, and optional controllers may be missing.
pub(crate) fn enable(root: &Path, below: &Path, names: &[String]) -> Option<(PathBuf, io::Error)> {
    if names.is_empty() {
        return None;
    }
    let switches: Vec<String> = names.iter().map(|name| format!("+{name}")).collect();
    let all = switches.join(" ");
    let parent = root.join(below.parent().unwrap_or(Path::new("")));
    // The usual case: all controllers above the parent are enabled already.
    switch(&parent, &all).err()?;
    let mut refused = None;
    let mut next = root.to_owned();
    for part in below {
        if switch(&next, &all).is_err() {
            for one in &switches {
                if let Err(error) = switch(&next, one) {
                    refused.get_or_insert_with(|| (next.clone(), error));
                }
            }
        }
        next.push(part);
    }
    refused
}

fn switch(dir: &Path, value: &str) -> io::Result<()> {
    Dir::open(dir)?.write("cgroup.subtree_control", value)
}

/// Explains a missing controller by the ancestor that could not enable it.
fn explain_missing(error: Error, refused: Option<(PathBuf, io::Error)>) -> Error {
    match refused {
        Some((path, cause))
            if error.kind() == Kind::Unsupported && cause.raw_os_error() == Some(libc::EBUSY) =>
        {
            let hint = "it has processes of its own; set linux.cgroupsPath to a path below a cgroup without";
            error.doing(format!("enable controllers below cgroup {}", path.display())).hint(hint)
        }
        _ => error,
    }
}

/// SPEC(runtime 1.2 #memory, checkBeforeUpdate): v2 would accept any limit and let the OOM killer enforce it.
pub(crate) fn check_usage(dir: &Dir, usage_below: Option<u64>) -> Result<()> {
    let Some(bound) = usage_below else { return Ok(()) };
    // Best effort, as in runc: a cgroup without readable usage passes.
    match dir.read("memory.current").ok().and_then(|text| text.trim().parse::<u64>().ok()) {
        Some(usage) if usage >= bound => {
            let doing =
                format!("linux.resources.memory.limit: {bound} bytes are not above the {usage} in use");
            Err(Error::new(Kind::Busy, doing))
        }
        _ => Ok(()),
    }
}
