//! Checks that need only the configuration: a bundle that fails here has left nothing behind.
//!
//! libcontainer's validator covers only the version, the root and the process. This module covers what runc checks,
//! and names the field.

use std::collections::BTreeSet;

use oci_spec::runtime::{Linux, Process, Spec};

use super::namespaces::Namespaces;
use super::request::Facts;
use crate::error::{Error, Kind, Result};
use crate::linux::ids;

/// Checks everything that does not depend on namespaces.
///
/// # Errors
/// `Invalid` or `Unsupported`, naming the field.
pub(super) fn spec(spec: &Spec, facts: &Facts) -> Result<()> {
    version(spec.version())?;
    let Some(process_config) = spec.process() else {
        return Err(Error::invalid("process is missing from the configuration"));
    };
    process(process_config, facts)?;
    mounts(spec)?;
    let Some(linux) = spec.linux() else { return Ok(()) };
    let labelled = linux.mount_label().as_ref().is_some_and(|l| !l.is_empty());
    if labelled && !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        return Err(absent("linux.mountLabel", "SELinux"));
    }
    let unsupported = [
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.netDevices", linux.net_devices().as_ref().is_some_and(|d| !d.is_empty())),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
    ];
    match unsupported.iter().find(|(_, set)| *set) {
        Some((field, _)) => Err(Error::new(Kind::Unsupported, format!("{field} is not supported"))),
        None => Ok(()),
    }
}

/// `ociVersion` is SemVer of major version 1. SPEC(runtime 1.2 #specification-version)
fn version(text: &str) -> Result<()> {
    const HINT: &str = "ociVersion is that of the runtime specification, such as 1.2.0";
    if text.is_empty() {
        return Err(Error::invalid("ociVersion is missing from the configuration").hint(HINT));
    }
    let core = text.split(['-', '+']).next().unwrap_or_default();
    let numbers: Vec<Option<u32>> = core.split('.').map(|n| n.parse().ok()).collect();
    match numbers.as_slice() {
        [Some(1), Some(_), Some(_)] => Ok(()),
        [Some(_), Some(_), Some(_)] => {
            Err(Error::new(Kind::Unsupported, format!("ociVersion {text:?} is not supported")).hint(HINT))
        }
        _ => Err(Error::invalid(format!("ociVersion {text:?} is not a version")).hint(HINT)),
    }
}

/// Checks a process, of a container or of an exec.
///
/// # Errors
/// `Invalid` or `Unsupported`, naming the field.
pub(super) fn process(process: &Process, facts: &Facts) -> Result<()> {
    let cwd = process.cwd();
    if !cwd.is_absolute() {
        return Err(Error::invalid(format!("process.cwd {cwd:?} is not an absolute path"))
            .hint("the working directory is seen from the container's root, such as /"));
    }
    if process.apparmor_profile().as_ref().is_some_and(|p| !p.is_empty()) && !facts.apparmor {
        return Err(absent("process.apparmorProfile", "AppArmor"));
    }
    if process.selinux_label().as_ref().is_some_and(|l| !l.is_empty()) && !facts.selinux {
        return Err(absent("process.selinuxLabel", "SELinux"));
    }
    if let Some(adj) = process.oom_score_adj().filter(|adj| !(-1000..=1000).contains(adj)) {
        return Err(Error::invalid(format!("process.oomScoreAdj {adj} is not within -1000 to 1000")));
    }
    user(process)?;
    for limit in process.rlimits().iter().flatten() {
        if limit.soft() > limit.hard() {
            let (name, soft, hard) = (limit.typ(), limit.soft(), limit.hard());
            return Err(Error::invalid(format!(
                "process.rlimits: {name}: soft limit {soft} is above hard limit {hard}"
            )));
        }
    }
    Ok(())
}

/// setresuid(2) takes -1 as "no change", so a process that is to become that user would stay root.
fn user(process: &Process) -> Result<()> {
    let user = process.user();
    ids::check("process.user.uid", user.uid())?;
    ids::check("process.user.gid", user.gid())?;
    let groups = user.additional_gids().as_deref().unwrap_or_default();
    if groups.len() > ids::MOST_GROUPS {
        let (has, most) = (groups.len(), ids::MOST_GROUPS);
        return Err(Error::invalid(format!(
            "process.user.additionalGids has {has} groups, more than {most}"
        )));
    }
    groups.iter().try_for_each(|group| ids::check("process.user.additionalGids", *group))
}

fn absent(field: &str, system: &str) -> Error {
    Error::new(Kind::Unsupported, format!("{field} is set, but {system} is not enabled on this host"))
        .hint("remove the label, or boot with the security module on")
}

fn mounts(spec: &Spec) -> Result<()> {
    let mounts = spec.mounts().as_deref().unwrap_or_default();
    for (index, mount) in mounts.iter().enumerate() {
        if !mount.destination().is_absolute() {
            return Err(Error::invalid(format!(
                "mounts: destination {:?} is not absolute",
                mount.destination()
            )));
        }
        // A second mount may cover the first on purpose; listing the same mount twice is a mistake.
        if mounts[..index].contains(mount) {
            return Err(Error::invalid(format!("mounts: {:?} is listed twice", mount.destination())));
        }
    }
    Ok(())
}

/// Checks fields that need a namespace of the container's own.
///
/// # Errors
/// `Invalid`, naming the field and the missing namespace.
pub(super) fn against_namespaces(spec: &Spec, linux: &Linux, namespaces: &Namespaces) -> Result<()> {
    let needs = |field: &str, kind: i32, name: &str| {
        if namespaces.private & kind != 0 {
            return Ok(());
        }
        Err(Error::invalid(format!("{field} is set, but the container has no {name} namespace of its own"))
            .hint(format!("add {{\"type\": \"{name}\"}} to linux.namespaces")))
    };
    if spec.hostname().as_ref().is_some_and(|n| !n.is_empty()) {
        needs("hostname", libc::CLONE_NEWUTS, "uts")?;
    }
    if spec.domainname().as_ref().is_some_and(|n| !n.is_empty()) {
        needs("domainname", libc::CLONE_NEWUTS, "uts")?;
    }
    let mount_fields = [
        ("mounts", spec.mounts().as_ref().is_some_and(|m| !m.is_empty())),
        ("linux.maskedPaths", linux.masked_paths().as_ref().is_some_and(|m| !m.is_empty())),
        ("linux.readonlyPaths", linux.readonly_paths().as_ref().is_some_and(|m| !m.is_empty())),
        ("linux.rootfsPropagation", linux.rootfs_propagation().as_ref().is_some_and(|m| !m.is_empty())),
    ];
    for (field, set) in mount_fields {
        if set {
            needs(field, libc::CLONE_NEWNS, "mount")?;
        }
    }
    for name in linux.sysctl().iter().flatten().map(|(name, _)| name).collect::<BTreeSet<_>>() {
        sysctl(name, spec, &needs)?;
    }
    Ok(())
}

/// Sysctls that each IPC namespace has its own value of; ipc_namespaces(7).
const IPC_SYSCTLS: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

fn sysctl(name: &str, spec: &Spec, needs: &dyn Fn(&str, i32, &str) -> Result<()>) -> Result<()> {
    let path = sysctl_path(name);
    let dotted = path.replace('/', ".");
    let field = format!("linux.sysctl {name:?}");
    if path.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        return Err(Error::invalid(format!("{field} is not a sysctl name")));
    }
    if path.starts_with("net/") {
        return needs(&field, libc::CLONE_NEWNET, "network");
    }
    if IPC_SYSCTLS.contains(&dotted.as_str()) || path.starts_with("fs/mqueue/") {
        return needs(&field, libc::CLONE_NEWIPC, "ipc");
    }
    if path.starts_with("user/") {
        return needs(&field, libc::CLONE_NEWUSER, "user");
    }
    match dotted.as_str() {
        "kernel.domainname" => needs(&field, libc::CLONE_NEWUTS, "uts"),
        "kernel.hostname" if spec.hostname().is_some() => {
            Err(Error::invalid(format!("{field} and hostname both set the hostname")))
        }
        "kernel.hostname" => needs(&field, libc::CLONE_NEWUTS, "uts"),
        _ => Err(Error::invalid(format!("{field} does not belong to a namespace: it would change the host"))
            .hint("only net.*, fs.mqueue.*, user.* and the ipc and uts sysctls are allowed")),
    }
}

/// A sysctl name as a path below /proc/sys. As in sysctl(8) the first separator decides: `net/ipv4/conf/eth0.1/x` is
/// a path with a dot in it.
pub(super) fn sysctl_path(name: &str) -> String {
    let swap = |c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    match (name.find('.'), name.find('/')) {
        (Some(dot), Some(slash)) if slash < dot => name.to_owned(),
        (None, _) => name.to_owned(),
        _ => name.chars().map(swap).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_the_first_major_are_accepted() {
        for good in ["1.0.0", "1.2.1", "1.0.2-dev", "1.3.0+build"] {
            version(good).unwrap();
        }
        for bad in ["", "1", "1.2", "2.0.0", "0.9.0", "one", "1.x.0"] {
            assert!(version(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sysctl_names_become_paths() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.forwarding"), "net/ipv4/conf/eth0.1/forwarding");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/forwarding"), "net/ipv4/conf/eth0.1/forwarding");
    }
}
