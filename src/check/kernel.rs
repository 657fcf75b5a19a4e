//! The kernel: version, features, cgroups, modules, confinement.

use rustix::io::Errno;

use super::{Probes, Row, Tree};

/// The oldest supported version.
const OLDEST: (u32, u32) = (5, 10);
/// Controllers without which limits of pods do not hold.
const NEEDED: [&str; 3] = ["cpu", "memory", "pids"];
/// Controllers that kubelet uses where they are.
const WANTED: [&str; 2] = ["cpuset", "io"];

pub(super) fn rows(tree: &Tree, probes: &Probes) -> Vec<Row> {
    let mut rows = Vec::new();
    if !probes.is_root {
        rows.push(
            Row::warning("user", "only root may try most features, so some rows are wrong")
                .advise("run `sudo coracle check`"),
        );
    }
    rows.extend([version(tree), features(probes), overlay(probes), user_namespaces(tree, probes)]);
    rows.push(cgroups(tree));
    rows.extend([seccomp(tree), apparmor(tree)]);
    rows
}

fn version(tree: &Tree) -> Row {
    let release = tree.text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().ok());
    let number = numbers.next().flatten().zip(numbers.next().flatten());
    match number {
        None => Row::warning("kernel", format!("its version {release:?} cannot be read")),
        Some(number) if number < OLDEST => {
            Row::error("kernel", format!("Linux {release} is too old")).advise("install Linux 5.10 or newer")
        }
        Some(_) => Row::ok("kernel", format!("Linux {release}")),
    }
}

fn features(probes: &Probes) -> Row {
    let required = [("openat2", probes.has_openat2), ("pidfd_open", probes.has_pidfds)];
    let missing: Vec<_> = required.iter().filter(|(_, has)| !has).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        return Row::error("system calls", format!("{} cannot be used", missing.join(", ")))
            .advise("install Linux 5.10 or newer; if it is, a seccomp filter of the surrounding container forbids them");
    }
    match probes.has_mount_setattr {
        true => Row::ok("system calls", "all that are needed can be used"),
        false => {
            Row::warning("system calls", "without mount_setattr, recursive read-only mounts are refused")
                .advise("install Linux 5.12 or newer if pods ask for them")
        }
    }
}

fn overlay(probes: &Probes) -> Row {
    match probes.overlay {
        Ok(()) => Row::ok("overlay", "images can be mounted"),
        Err(_) if !probes.is_root => Row::not_applicable("overlay", "only root can try it"),
        Err(Errno::NODEV) => {
            Row::error("overlay", "this kernel has no overlayfs, so no image can be mounted")
                .advise("load it (`modprobe overlay`), or build the kernel with CONFIG_OVERLAY_FS")
        }
        Err(Errno::PERM) => Row::error("overlay", "this process may not mount, so no image can be mounted")
            .advise(
                "run it with CAP_SYS_ADMIN, and outside of a container whose seccomp filter forbids fsopen",
            ),
        Err(errno) => Row::error("overlay", format!("it cannot be tried: fsopen: {errno}")).advise(
            "install Linux 5.10 or newer; if it is, a seccomp filter of the surrounding container forbids it",
        ),
    }
}

fn user_namespaces(tree: &Tree, probes: &Probes) -> Row {
    let topic = "user namespaces";
    match (probes.has_user_namespaces, probes.maps_layers) {
        (true, Some(true)) => Row::ok(topic, "pods with hostUsers: false can run"),
        (true, None) => Row::ok(topic, "they can be created; the store does not exist yet"),
        _ if !probes.is_root => Row::not_applicable(topic, "only root can try them"),
        (true, Some(false)) => Row::warning(topic, "layers of the store cannot be mounted with mapped ids, so pods with hostUsers: false are refused")
            .advise("they need Linux 5.19 or newer, and a store on ext4, xfs, btrfs, f2fs (6.3) or tmpfs (6.3)"),
        (false, _) if tree.number("/proc/sys/user/max_user_namespaces") == Some(0) => {
            Row::warning(topic, "they are switched off, so pods with hostUsers: false are refused")
                .advise("sysctl -w user.max_user_namespaces=15000")
        }
        (false, _) => Row::warning(topic, "they cannot be created, so pods with hostUsers: false are refused")
            .advise("build the kernel with CONFIG_USER_NS, if pods ask for them"),
    }
}

fn cgroups(tree: &Tree) -> Row {
    let (version, controllers) = match tree.text("/sys/fs/cgroup/cgroup.controllers") {
        Some(list) => ("v2", list.split_whitespace().map(str::to_owned).collect()),
        None => ("v1", enabled_v1(tree)),
    };
    if !is_cgroup_mounted(tree) {
        return Row::error("cgroups", "no cgroup file system is mounted, so no pod can run")
            .advise("mount cgroup2 on /sys/fs/cgroup, which systemd and OpenRC do at boot");
    }
    let has = |name: &&str| controllers.iter().any(|has| has == name || (*name == "io" && has == "blkio"));
    let missing: Vec<_> = NEEDED.iter().filter(|name| !has(name)).copied().collect();
    if controllers.is_empty() {
        return Row::error("cgroups", "no controller was found")
            .advise("mount cgroup2 on /sys/fs/cgroup, which systemd and OpenRC do at boot");
    }
    if !missing.is_empty() {
        let finding = format!("{version} without {}, so kubelet refuses to start", missing.join(", "));
        return Row::error("cgroups", finding).advise(match missing.contains(&"memory") {
            true => memory_advice(tree),
            false => "build the kernel with CONFIG_CGROUP_SCHED, CONFIG_CGROUP_PIDS".to_owned(),
        });
    }
    if version == "v1" {
        return Row::warning("cgroups", "v1: kubelet 1.35 and newer refuses it unless told otherwise")
            .advise("boot with systemd.unified_cgroup_hierarchy=1, or set failCgroupV1: false for kubelet");
    }
    let lacking: Vec<_> = WANTED.iter().filter(|name| !has(name)).copied().collect();
    match lacking.is_empty() {
        true => Row::ok("cgroups", format!("{version} with {}", controllers.join(", "))),
        false => Row::warning("cgroups", format!("{version} without {}", lacking.join(", ")))
            .advise("limits of these kinds have no effect; the kernel would need them built in"),
    }
}

/// Whether a cgroup file system of either version is mounted; proc_pid_mounts(5) has the type in the third field.
fn is_cgroup_mounted(tree: &Tree) -> bool {
    let Some(mounts) = tree.text("/proc/self/mounts") else { return true };
    let mut types = mounts.lines().filter_map(|line| line.split_whitespace().nth(2));
    types.any(|kind| ["cgroup", "cgroup2"].contains(&kind))
}

/// The controllers of v1: /proc/cgroups has name, hierarchy, number of cgroups, and whether it is enabled.
fn enabled_v1(tree: &Tree) -> Vec<String> {
    let text = tree.text("/proc/cgroups").unwrap_or_default();
    let rows = text.lines().filter(|line| !line.starts_with('#'));
    let fields = rows.map(|line| line.split_whitespace().collect::<Vec<_>>());
    fields
        .filter(|row| row.get(3) == Some(&"1"))
        .filter_map(|row| row.first().map(|name| (*name).to_owned()))
        .collect()
}

/// What brings the memory controller. The firmware of a Raspberry Pi adds cgroup_disable=memory by itself.
fn memory_advice(tree: &Tree) -> String {
    let model = tree.text("/proc/device-tree/model").unwrap_or_default();
    let files = ["/boot/firmware/cmdline.txt", "/boot/cmdline.txt"];
    let file =
        files.into_iter().find(|file| tree.text(file).is_some_and(|text| !text.starts_with("DO NOT EDIT")));
    match file {
        Some(file) if tree.text(file).is_some_and(|text| has_word(&text, "cgroup_enable=memory")) => {
            format!("{file} has cgroup_enable=memory already: reboot")
        }
        Some(file) => format!("append ` cgroup_enable=memory` to the one line of {file}, and reboot"),
        None if model.contains("Raspberry Pi") => {
            "append ` cgroup_enable=memory` to the one line of /boot/firmware/cmdline.txt, and reboot".to_owned()
        }
        None if has_word(&tree.text("/proc/cmdline").unwrap_or_default(), "cgroup_disable=memory") => {
            "remove cgroup_disable=memory from the kernel's command line, or append cgroup_enable=memory, and reboot".to_owned()
        }
        None => "append cgroup_enable=memory to the kernel's command line, and reboot; without effect, the kernel needs CONFIG_MEMCG".to_owned(),
    }
}

fn has_word(text: &str, word: &str) -> bool {
    text.split_whitespace().any(|found| found == word)
}

fn seccomp(tree: &Tree) -> Row {
    match tree.text("/proc/sys/kernel/seccomp/actions_avail") {
        Some(actions) if has_word(&actions, "errno") => Row::ok("seccomp", "profiles can be applied"),
        _ => Row::error(
            "seccomp",
            "this kernel has no seccomp filters, so containers with a profile do not start",
        )
        .advise("build the kernel with CONFIG_SECCOMP_FILTER, or set seccomp = false in [security]"),
    }
}

fn apparmor(tree: &Tree) -> Row {
    if tree.text("/sys/module/apparmor/parameters/enabled").as_deref() != Some("Y") {
        return Row::not_applicable("AppArmor", "this kernel has it not enabled");
    }
    match tree.program(&["apparmor_parser"]) {
        Some(_) => Row::ok("AppArmor", "profiles can be loaded and applied"),
        None => Row::warning(
            "AppArmor",
            "it is enabled, but apparmor_parser is not installed, so no profile can be loaded",
        )
        .advise("install the package apparmor"),
    }
}
