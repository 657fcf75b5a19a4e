//! Creating a cgroup on v1: a directory in each controller's hierarchy.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use cgroups_rs::fs::hierarchies::mountinfo_self;

use super::dir::Dir;
use super::filter::in_user_namespace;
use super::group::Group;
use super::made::{Made, Note, refuse_used};
use super::plan::Plan;
use super::write::write_all;
use super::{MOUNT, Mode, is_cgroup2};
use crate::error::{Doing, Error, Kind, Result};

/// The hierarchies in the order in which a process enters them; cpuset first, because entering it can be refused.
const CONTROLLERS: [&str; 15] = [
    "cpuset",
    "devices",
    "memory",
    "cpu",
    "cpuacct",
    "pids",
    "blkio",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "freezer",
    "rdma",
    "name=systemd",
    "misc",
];

/// The mount point of a controller, and the directory of its hierarchy that is mounted there.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Hierarchy {
    controller: String,
    point: PathBuf,
    root: PathBuf,
}

pub(crate) fn create(plan: &Plan, note: Note<'_>) -> Result<Group> {
    let paths = paths(plan)?;
    note(&paths)?;
    let mut made = Made::default();
    let mut new = true;
    for (controller, path) in &paths {
        new &= make(&mut made, controller, path)?;
    }
    let group = Group::new(Mode::V1, paths, Path::new(MOUNT), None);
    if !new {
        refuse_used(&group)?;
    }
    fill(plan, &group)?;
    made.keep();
    Ok(group)
}

/// The path of the plan's cgroup in each mounted hierarchy.
pub(crate) fn paths(plan: &Plan) -> Result<BTreeMap<String, PathBuf>> {
    let own = fs::read_to_string("/proc/self/cgroup").doing(|| "read /proc/self/cgroup")?;
    let mut paths = BTreeMap::new();
    for hierarchy in hierarchies() {
        let own = own_in(&own, &hierarchy);
        let path = hierarchy.point.join(plan.path.below_root(&own)?);
        paths.insert(hierarchy.controller, path);
    }
    if !paths.contains_key("devices") && !in_user_namespace() {
        let error = Error::new(Kind::Unsupported, "no cgroup hierarchy of the devices controller is mounted");
        return Err(error.hint("mount it: without it, a container could use the host's disks"));
    }
    // Hybrid: the v2 hierarchy has no controllers, but it has cgroup.kill.
    let unified = Path::new(MOUNT).join("unified");
    if is_cgroup2(&unified) {
        paths.insert(String::new(), unified.join(plan.path.below_root(Path::new("/"))?));
    }
    Ok(paths)
}

fn hierarchies() -> Vec<Hierarchy> {
    let mounts = mountinfo_self();
    let find = |controller: &str| {
        // The mount options also contain the names of named hierarchies. The usual mount point is preferred to others.
        let mut shown = mounts.iter().filter(|m| m.super_opts.iter().any(|option| option == controller));
        let mount = shown.clone().find(|m| m.mount_point.starts_with(MOUNT)).or_else(|| shown.next())?;
        let (point, root) = (mount.mount_point.clone(), mount.mount_root.clone());
        Some(Hierarchy { controller: controller.to_owned(), point, root })
    };
    CONTROLLERS.iter().filter_map(|controller| find(controller)).collect()
}

/// The runtime's own cgroup, from the text of /proc/self/cgroup, relative to the mount: in a container without a cgroup
/// namespace the text has the host's path, and the mount shows only the end of it.
fn own_in(text: &str, hierarchy: &Hierarchy) -> PathBuf {
    let path = text.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (names, path) = (parts.next()?, parts.next()?);
        names.split(',').any(|name| name == hierarchy.controller).then_some(path)
    });
    let own = Path::new(path.unwrap_or("/"));
    own.strip_prefix(&hierarchy.root).map(Path::to_owned).unwrap_or_default()
}

/// Creates `path` with its parents; `Ok(false)` when it existed.
pub(crate) fn make(made: &mut Made, controller: &str, path: &Path) -> Result<bool> {
    let parent = path.parent().unwrap_or(path);
    if controller == "cpuset" {
        make_cpuset(made, parent)?;
    }
    match made.dir(path) {
        Err(error) if error.kind() == Kind::NotFound => {
            make(made, controller, parent)?;
            made.dir(path)
        }
        other => other,
    }
}

/// Creates an inner cpuset and fills it, unless it is the mounted root, which is never empty.
fn make_cpuset(made: &mut Made, path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    if parent.is_dir() && !parent.join("cpuset.cpus").exists() {
        return Ok(());
    }
    make_cpuset(made, parent)?;
    made.dir(path)?;
    inherit(path)
}

/// cpuset(7): a new cpuset is empty, and no process can enter an empty one; so it copies its parent's values.
fn inherit(path: &Path) -> Result<()> {
    let (dir, parent) = (open(path)?, open(path.parent().unwrap_or(path))?);
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let shown = || format!("inherit {}", path.join(file).display());
        if dir.read(file).doing(shown)?.trim().is_empty() {
            let value = parent.read(file).doing(shown)?;
            dir.write(file, value.trim()).doing(shown)?;
        }
    }
    Ok(())
}

fn open(path: &Path) -> Result<Dir> {
    Dir::open(path).doing(|| format!("open cgroup {}", path.display()))
}

/// Writes limits and device rules.
pub(crate) fn fill(plan: &Plan, group: &Group) -> Result<()> {
    group.write_v1(&plan.limits.writes)?;
    if let Some(cpuset) = group.paths().get("cpuset") {
        inherit(cpuset)?;
    }
    write_devices(group, &plan.v1_devices)
}

/// Writes device rules. In a user namespace the kernel refuses this, and refuses to create device nodes as well.
pub(crate) fn write_devices(group: &Group, writes: &[(&'static str, String)]) -> Result<()> {
    let Some(path) = group.paths().get("devices") else { return Ok(()) };
    if in_user_namespace() {
        return Ok(());
    }
    let dir = open(path)?;
    for (file, value) in writes {
        dir.write(file, value)
            .doing(|| format!("linux.resources.devices: write {value:?} to {}", path.join(file).display()))?;
    }
    Ok(())
}

impl Group {
    /// Writes limits, each to its controller's hierarchy.
    pub(crate) fn write_v1(&self, writes: &[super::write::Write]) -> Result<()> {
        let mut dirs = BTreeMap::new();
        for write in writes {
            if let Some((name, path)) = self.paths().get_key_value(&*write.controller)
                && !dirs.contains_key(name.as_str())
            {
                dirs.insert(name.as_str(), open(path)?);
            }
        }
        write_all(writes, |controller| dirs.get(controller))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(root: &str, own: &str) -> PathBuf {
        let hierarchy = Hierarchy {
            controller: "memory".to_owned(),
            point: "/sys/fs/cgroup/memory".into(),
            root: root.into(),
        };
        own_in(
            &format!("5:cpu,cpuacct:/other\n4:hugetlb,memory:{own}\n1:name=systemd:/init\n0::/\n"),
            &hierarchy,
        )
    }

    #[test]
    fn the_own_cgroup_is_seen_through_the_mount() {
        assert_eq!(seen("/", "/a/b"), Path::new("a/b"));
        assert_eq!(seen("/docker/1", "/docker/1/sub"), Path::new("sub"));
        assert_eq!(seen("/docker/1", "/docker/1"), Path::new(""));
        assert_eq!(seen("/docker/1", "/elsewhere"), Path::new(""), "never climbs out of the mount");
        assert_eq!(seen("/", "/"), Path::new(""));
    }

    #[test]
    fn a_named_hierarchy_has_its_own_line() {
        let systemd =
            Hierarchy { controller: "name=systemd".to_owned(), point: "/x".into(), root: "/".into() };
        assert_eq!(own_in("1:name=systemd:/init.scope\n", &systemd), Path::new("init.scope"));
    }
}
