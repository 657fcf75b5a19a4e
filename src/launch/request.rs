//! The input of a plan: the request, and the facts about the host that the plan depends on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};

use crate::error::{Doing, Result};
use crate::id::ContainerId;

/// A request to create a container.
#[derive(Debug, Clone, Copy)]
pub struct InitRequest<'a> {
    /// Its id.
    pub id: &'a ContainerId,
    /// Its configuration.
    pub spec: &'a Spec,
    /// The directory that relative paths in the configuration start from.
    pub bundle: &'a Path,
    /// Whether the root filesystem is passed as a descriptor; `root.path` then is only recorded.
    pub root_is_given: bool,
    /// Facts about the host.
    pub facts: &'a Facts,
    /// Its compiled seccomp filter.
    pub seccomp: Option<&'a crate::seccomp::Program>,
    /// The caller's options.
    pub options: Options,
}

/// A request to add a process to a running container.
#[derive(Debug, Clone, Copy)]
pub struct ExecRequest<'a> {
    /// The container's id.
    pub id: &'a ContainerId,
    /// The container's configuration.
    pub spec: &'a Spec,
    /// The process.
    pub process: &'a Process,
    /// Facts about the host.
    pub facts: &'a Facts,
    /// Its compiled seccomp filter.
    pub seccomp: Option<&'a crate::seccomp::Program>,
    /// The caller's options.
    pub options: Options,
}

/// Options of the command line that change the plan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Options {
    /// MS_MOVE and chroot instead of pivot_root (`--no-pivot`).
    pub no_pivot: bool,
    /// Keep the caller's session keyring (`--no-new-keyring`).
    pub no_new_keyring: bool,
    /// How many descriptors, from 3 on, the payload inherits (`--preserve-fds`).
    pub preserve_fds: u32,
    /// The payload waits until the parent has recorded the container.
    pub wait_for_record: bool,
    /// The payload waits for a later `start` instead of running at once.
    pub wait_for_start: bool,
    /// The child waits until the parent has moved it to its cgroups.
    pub parent_attaches: bool,
}

/// Facts about the host that plans depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// AppArmor is enabled.
    pub apparmor: bool,
    /// SELinux is enabled.
    pub selinux: bool,
    /// The host runs cgroup v2.
    pub unified: bool,
    /// cgroup v1 hierarchies below /sys/fs/cgroup, empty on v2.
    pub hierarchies: Vec<Hierarchy>,
    /// The container's cgroup directories: by controller on v1, under the empty name on v2.
    pub cgroup_paths: BTreeMap<String, PathBuf>,
    /// The caller is in a user namespace, where mknod is not allowed.
    pub in_user_namespace: bool,
}

/// One mounted cgroup v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Its directory name: `memory`, `cpu,cpuacct`, `systemd`.
    pub name: String,
    /// The mount options that select it: `memory`; `cpu` and `cpuacct`; `none` and `name=systemd`.
    pub options: Vec<String>,
}

impl Facts {
    /// Reads the facts that `spec` makes necessary.
    ///
    /// # Errors
    /// /proc cannot be read.
    pub fn gather(spec: &Spec, unified: bool, cgroup_paths: BTreeMap<String, PathBuf>) -> Result<Self> {
        let process = spec.process().as_ref();
        let asks_apparmor =
            process.and_then(|p| p.apparmor_profile().as_ref()).is_some_and(|p| !p.is_empty());
        let asks_selinux = process.and_then(|p| p.selinux_label().as_ref()).is_some_and(|p| !p.is_empty());
        let mounts_cgroup = spec.mounts().iter().flatten().any(|m| m.typ().as_deref() == Some("cgroup"));
        Ok(Self {
            apparmor: asks_apparmor && super::toolbox::apparmor_is_enabled().unwrap_or(false),
            selinux: asks_selinux && Path::new("/sys/fs/selinux/enforce").exists(),
            unified,
            hierarchies: if mounts_cgroup && !unified { hierarchies()? } else { Vec::new() },
            cgroup_paths,
            in_user_namespace: in_user_namespace(),
        })
    }
}

/// Reads the v1 hierarchies from mountinfo; see proc_pid_mountinfo(5).
fn hierarchies() -> Result<Vec<Hierarchy>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").doing(|| "read /proc/self/mountinfo")?;
    Ok(parse_hierarchies(&text))
}

fn parse_hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    const NOT_CONTROLLERS: [&str; 5] = ["rw", "ro", "xattr", "clone_children", "noprefix"];
    let mut found: Vec<Hierarchy> = Vec::new();
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let (Some(point), mut after) = (before.split(' ').nth(4), after.split(' ')) else { continue };
        let Some(name) = point.strip_prefix("/sys/fs/cgroup/") else { continue };
        if after.next() != Some("cgroup") || name.contains('/') || found.iter().any(|h| h.name == name) {
            continue;
        }
        let options = after.nth(1).unwrap_or_default().split(',');
        let mut options: Vec<String> = options
            .filter(|o| !NOT_CONTROLLERS.contains(o) && !o.starts_with("release_agent="))
            .map(str::to_owned)
            .collect();
        if options.iter().any(|o| o.starts_with("name=")) {
            options.insert(0, "none".to_owned());
        }
        found.push(Hierarchy { name: name.to_owned(), options });
    }
    found
}

/// Whether /proc/self/uid_map is anything but the identity of the initial user namespace.
fn in_user_namespace() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    !map.split_ascii_whitespace().eq(["0", "0", "4294967295"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v1_hierarchies_come_from_mountinfo() {
        let text = "30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
                    31 29 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
                    32 29 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                    33 29 0:26 / /mnt/cpu rw - cgroup cgroup rw,cpu\n";
        let found = parse_hierarchies(text);
        assert_eq!(
            found,
            [
                Hierarchy { name: "cpu,cpuacct".into(), options: vec!["cpu".into(), "cpuacct".into()] },
                Hierarchy { name: "systemd".into(), options: vec!["none".into(), "name=systemd".into()] },
            ]
        );
    }
}
