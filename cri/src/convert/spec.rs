//! The runtime configuration of a container: its wishes, put together with what the node made and looked up for it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Capability, Linux, LinuxDevice, LinuxDeviceCgroup, LinuxNamespace, LinuxSeccomp, Mount, Process, Root,
    Spec, User,
};

use super::{ContainerWishes, ImageDefaults, Propagation};
use crate::error::{Error, Kind, Result};

/// What wishes cannot know: made, found or decided by the node.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// The mounted root.
    pub root: PathBuf,
    /// What the image says about the process.
    pub image: ImageDefaults,
    /// The image's working directory.
    pub working_dir: Option<PathBuf>,
    /// The pod's host name, or the node's.
    pub hostname: String,
    /// The user, found in the image, with all groups.
    pub user: User,
    /// The namespaces, with the files of those that are shared.
    pub namespaces: Vec<LinuxNamespace>,
    /// The container's cgroup.
    pub cgroup: PathBuf,
    /// The node's files of the pod to be bound: /dev/shm, /etc/resolv.conf, /etc/hostname. Volumes at the same place
    /// win.
    pub files: Vec<Mount>,
    /// Where each of the wished mounts comes from, in their order.
    pub sources: Vec<PathBuf>,
    /// Device nodes, with what may be done with them; all of the node's for a privileged container.
    pub devices: Vec<(LinuxDevice, String)>,
    /// The runtime's default capabilities.
    pub default_capabilities: HashSet<Capability>,
    /// All that the kernel knows.
    pub known_capabilities: HashSet<Capability>,
    /// The profile that was wished for, read.
    pub seccomp: Option<LinuxSeccomp>,
    /// The name of the profile that was wished for.
    pub apparmor: Option<String>,
    /// The process's SELinux label.
    pub selinux_label: Option<String>,
    /// The files' SELinux label.
    pub mount_label: Option<String>,
}

impl ContainerWishes {
    /// The runtime configuration. Environment values that are not UTF-8 cannot be in one and are left out: who can pass
    /// them takes [`ContainerWishes::environment`]. Annotations are left out, too: they steer runtimes and hooks, and
    /// are not the node's to give (CVE-2026-53488).
    ///
    /// # Errors
    /// `Invalid` when there is nothing to run; `Bug` when not every mount has its source.
    pub fn spec(&self, place: &Place) -> Result<Spec> {
        if place.sources.len() != self.mounts.len() {
            let (found, wished) = (place.sources.len(), self.mounts.len());
            return Err(Error::new(Kind::Bug, format!("{found} sources for {wished} mounts")));
        }
        let mut root = Root::default();
        root.set_path(place.root.clone()).set_readonly(Some(self.readonly_rootfs));
        let mut spec = Spec::default();
        // The host name is the pod's, set when its namespace was made.
        spec.set_hostname(None)
            .set_annotations(None)
            .set_version("1.2.1".to_owned())
            .set_root(Some(root))
            .set_process(Some(self.process(place)?))
            .set_mounts(Some(self.all_mounts(place)))
            .set_linux(Some(self.linux(place)));
        Ok(spec)
    }

    fn process(&self, place: &Place) -> Result<Process> {
        let working_dir = self.working_dir.clone().or_else(|| place.working_dir.clone());
        let env = self.environment(&place.image, &place.hostname);
        let mut process = Process::default();
        process
            .set_terminal(Some(self.tty))
            .set_user(place.user.clone())
            .set_args(Some(self.arguments(&place.image)?))
            .set_env(Some(env.into_iter().filter_map(|e| String::from_utf8(e).ok()).collect()))
            .set_cwd(working_dir.unwrap_or_else(|| PathBuf::from("/")))
            .set_capabilities(Some(
                self.capabilities.sets(&place.default_capabilities, &place.known_capabilities),
            ))
            .set_no_new_privileges(Some(self.no_new_privileges))
            .set_rlimits(None)
            .set_oom_score_adj(Some(self.resources.oom_score_adj))
            .set_apparmor_profile(place.apparmor.clone())
            .set_selinux_label(place.selinux_label.clone());
        Ok(process)
    }

    fn linux(&self, place: &Place) -> Linux {
        let texts = |paths: &[PathBuf]| {
            let list = paths.iter().map(|p| p.to_string_lossy().into_owned()).collect::<Vec<_>>();
            (!list.is_empty()).then_some(list)
        };
        let nodes: Vec<_> = place.devices.iter().map(|(node, _)| node.clone()).collect();
        let mut resources = self.resources.cgroup.clone();
        resources.set_devices(Some(self.device_rules(place)));
        let mut linux = Linux::default();
        linux
            .set_namespaces(Some(place.namespaces.clone()))
            .set_uid_mappings(self.namespaces.user.as_ref().map(|u| u.uids.clone()))
            .set_gid_mappings(self.namespaces.user.as_ref().map(|u| u.gids.clone()))
            .set_cgroups_path(Some(place.cgroup.clone()))
            .set_resources(Some(resources))
            .set_devices((!nodes.is_empty()).then_some(nodes))
            .set_masked_paths(texts(&self.masked_paths))
            .set_readonly_paths(texts(&self.readonly_paths))
            .set_rootfs_propagation(self.root_propagation().map(str::to_owned))
            .set_seccomp(place.seccomp.clone())
            .set_mount_label(place.mount_label.clone());
        linux
    }

    /// Nothing but what is listed, or everything for a privileged container.
    fn device_rules(&self, place: &Place) -> Vec<LinuxDeviceCgroup> {
        let mut all = LinuxDeviceCgroup::default();
        all.set_allow(self.privileged).set_access(Some("rwm".to_owned()));
        let listed = place.devices.iter().map(|(node, access)| {
            let mut rule = LinuxDeviceCgroup::from(node);
            rule.set_access(Some(access.clone()));
            rule
        });
        std::iter::once(all).chain(listed).collect()
    }

    /// A mount that propagates needs a root that does: in a private one it would get nothing to pass on.
    fn root_propagation(&self) -> Option<&'static str> {
        let has = |wanted| self.mounts.iter().any(|m| m.propagation == wanted);
        if has(Propagation::Both) {
            Some("rshared")
        } else if has(Propagation::FromHost) {
            Some("rslave")
        } else {
            None
        }
    }

    /// The kernel's file systems, the pod's files, the volumes; of two at one place the later one.
    fn all_mounts(&self, place: &Place) -> Vec<Mount> {
        let volumes: Vec<_> =
            self.mounts.iter().zip(&place.sources).map(|(m, source)| m.mount(source)).collect();
        let is_free =
            |later: &[&[Mount]], at: &Path| !later.iter().copied().flatten().any(|m| m.destination() == at);
        let system = system_mounts(self.privileged);
        let mut all: Vec<_> =
            system.into_iter().filter(|m| is_free(&[&place.files, &volumes], m.destination())).collect();
        all.extend(place.files.iter().filter(|m| is_free(&[&volumes], m.destination())).cloned());
        all.extend(volumes);
        all
    }
}

/// As containerd mounts them. Privileged containers may write to /sys.
fn system_mounts(privileged: bool) -> Vec<Mount> {
    let access = if privileged { "rw" } else { "ro" };
    [
        ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
        ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
        ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
        ("/sys", "sysfs", "sysfs", "nosuid,noexec,nodev"),
        ("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid,noexec,nodev,relatime"),
    ]
    .into_iter()
    .map(|(at, kind, source, options)| {
        let mut options: Vec<_> = options.split(',').map(str::to_owned).collect();
        if at.starts_with("/sys") {
            options.push(access.to_owned());
        }
        let mut mount = Mount::default();
        mount
            .set_destination(PathBuf::from(at))
            .set_typ(Some(kind.to_owned()))
            .set_source(Some(PathBuf::from(source)))
            .set_options(Some(options));
        mount
    })
    .collect()
}
