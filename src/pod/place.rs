//! What a container's wishes need of the node: root, user, namespaces, cgroup, devices, profiles.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use coracle_cri::convert::{ContainerWishes, ImageDefaults, Namespaces, Place, Profile, RunAs, Scope};
use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, User};

use super::container::Prepared;
use super::records::Directory;
use super::sandbox::Sandbox;
use super::{Pods, cdi, files};
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::linux::ids::{self, Account, UserSpec};
use crate::linux::private;
use crate::spec::user::{Databases, complete_home};
use crate::spec::{defaults, devices, image_volumes, security};
use crate::store::ImageRecord;

/// The slice of pods that name none.
const DEFAULT_SLICE: &str = "system.slice";

/// The cgroup above those of pods that name none.
const DEFAULT_PARENT: &str = "/coracle";

impl Pods {
    /// Mounts a container's root, looks up what its configuration needs, and puts the runtime configuration together.
    ///
    /// # Errors
    /// Something that is asked for is not there, or cannot be had on this node.
    pub(super) fn prepare(
        &self,
        id: &str,
        sandbox: &Sandbox,
        image: &ImageRecord,
        directory: &Directory,
        wishes: &ContainerWishes,
    ) -> Result<Prepared> {
        let stored = self.store.container_dir(&ContainerId::parse(id)?);
        let layer = if self.settings.layers_in_memory { self.directories.layer(id) } else { stored.clone() };
        let pod = sandbox.wishes()?;
        let wishes = &ContainerWishes { namespaces: within(&pod.namespaces, wishes), ..wishes.clone() };
        let root = self.mount_root(image, &layer, wishes)?;
        let inside = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        let config = self.store.config(image)?.config().clone().unwrap_or_default();
        let place = Place {
            root: stored.join("root"),
            image: ImageDefaults {
                entrypoint: config.entrypoint().clone().unwrap_or_default(),
                cmd: config.cmd().clone().unwrap_or_default(),
                env: config.env().clone().unwrap_or_default(),
            },
            working_dir: config.working_dir().as_deref().filter(|dir| !dir.is_empty()).map(PathBuf::from),
            hostname: sandbox.hostname(),
            user: user(wishes, &config, &Databases::read(&inside)?)?,
            namespaces: self.namespaces(wishes, &sandbox.directory)?,
            cgroup: self.cgroup_of(pod.cgroup_parent.as_deref(), id),
            files: files::mounts(&pod, &sandbox.directory, wishes.readonly_rootfs),
            sources: self.sources(wishes, directory)?,
            devices: nodes(wishes)?,
            default_capabilities: defaults::CAPABILITIES.into(),
            known_capabilities: security::every(),
            seccomp: None,
            apparmor: self.apparmor(&wishes.confinement.apparmor)?,
            selinux_label: self.selinux(wishes),
            mount_label: None,
        };
        let mut spec = wishes.spec(&place).map_err(|e| Error::invalid(e.message))?;
        let covered = |at: &Path| spec.mounts().iter().flatten().any(|mount| mount.destination() == at);
        let of_image = image_volumes::of_image(&config, &covered, wishes.readonly_rootfs, &stored, &inside)?;
        spec.mounts_mut().get_or_insert_default().extend(of_image);
        if let Some(process) = spec.process_mut() {
            complete_home(process, &inside);
        }
        let seccomp = self.seccomp(wishes, &spec)?;
        if let Some(linux) = spec.linux_mut() {
            linux.set_seccomp(seccomp);
        }
        let mut devices = wishes.cdi_devices.clone();
        if self.offer().handlers.get(&sandbox.handler()) == Some(&true) {
            devices.extend(gpus(&spec));
        }
        cdi::inject(&devices, &mut spec)?;
        Ok(Prepared { spec, root })
    }

    /// A container's root: its image's layers below a writable one.
    fn mount_root(
        &self,
        image: &ImageRecord,
        layer: &Path,
        wishes: &ContainerWishes,
    ) -> Result<std::os::fd::OwnedFd> {
        use crate::error::Doing;
        if self.settings.layers_in_memory {
            private::make_dirs(layer, private::DIR).doing(|| format!("make {}", layer.display()))?;
        }
        // Of an earlier daemon's preparation, which nobody has written to: the kernel takes a volatile one only once.
        for name in ["upper", "work"] {
            crate::store::remove_tree(&layer.join(name))?;
        }
        let lower = self.store.lower_dirs(image);
        match &wishes.namespaces.user {
            Some(ids) => {
                let maps = crate::launch::namespaces::IdMaps::new(&ids.uids, &ids.gids);
                let host =
                    |list: &[oci_spec::runtime::LinuxIdMapping]| list.first().map_or(0, |m| m.host_id());
                let root = (host(&ids.uids), host(&ids.gids));
                crate::image::rootfs::mount_mapped(&lower, layer, &maps, root)
            }
            // The layer goes with its container: it is never synced, so flash is not worn for nothing.
            None => crate::image::rootfs::mount(&lower, layer, true),
        }
    }

    fn namespaces(&self, wishes: &ContainerWishes, pod: &Directory) -> Result<Vec<LinuxNamespace>> {
        let own = &wishes.namespaces;
        let mut all: Vec<_> = namespaces_of(own, pod).collect();
        all.push(namespace(LinuxNamespaceType::Mount, None));
        if crate::cgroup::mode()? == crate::cgroup::Mode::V2 && !wishes.privileged {
            all.push(namespace(LinuxNamespaceType::Cgroup, None));
        }
        match &own.pid {
            Scope::Container => all.push(namespace(LinuxNamespaceType::Pid, None)),
            Scope::Pod => all.push(namespace(LinuxNamespaceType::Pid, Some(pod.join("pid")))),
            Scope::Target(id) => {
                let path = format!("/proc/{}/ns/pid", self.pid_of(&self.running(id)?.id)?);
                all.push(namespace(LinuxNamespaceType::Pid, Some(path.into())));
            }
            Scope::Node => {}
        }
        Ok(all)
    }

    /// `linux.cgroupsPath` below the parent that kubelet names.
    pub(super) fn cgroup_of(&self, parent: Option<&Path>, id: &str) -> PathBuf {
        if !self.settings.systemd_cgroup {
            return parent.unwrap_or(Path::new(DEFAULT_PARENT)).join(id);
        }
        // The path of a slice ends with its name.
        let slice = parent.and_then(Path::file_name).and_then(|name| name.to_str()).unwrap_or(DEFAULT_SLICE);
        PathBuf::from(format!("{slice}:coracle:{id}"))
    }

    /// The first process of a container that runs.
    pub(super) fn pid_of(&self, id: &str) -> Result<i32> {
        Ok(self.oci_state(id)?.init_process_pid)
    }

    /// The OCI state of a container that was started.
    pub(super) fn oci_state(&self, id: &str) -> Result<crate::record::ContainerState> {
        let layout = crate::record::Layout::new(&self.settings.root, &ContainerId::parse(id)?);
        crate::record::ContainerState::load(&layout)
    }
}

/// What a container has of its pod is as the pod has it, whatever the container's configuration repeats of that.
fn within(pod: &Namespaces, wishes: &ContainerWishes) -> Namespaces {
    let pid = match (&wishes.namespaces.pid, &pod.pid) {
        // There is none to share.
        (Scope::Pod, Scope::Container | Scope::Node) => pod.pid.clone(),
        (own, _) => own.clone(),
    };
    Namespaces { pid, ..pod.clone() }
}

/// The namespaces that a pod's processes share.
pub(super) fn namespaces_of(own: &Namespaces, pod: &Directory) -> impl Iterator<Item = LinuxNamespace> {
    use LinuxNamespaceType as Kind;
    let network = own.network == Scope::Pod;
    let shared = [
        (Kind::User, "user", own.user.is_some()),
        (Kind::Network, "net", network),
        (Kind::Uts, "uts", network),
        (Kind::Ipc, "ipc", own.ipc == Scope::Pod),
    ];
    let pod = pod.clone();
    shared
        .into_iter()
        .filter(|(.., has)| *has)
        .map(move |(kind, name, _)| namespace(kind, Some(pod.join(name))))
}

/// One to be made, or joined at a path.
pub(super) fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}

/// The process's ids. The main group is among the others, too: else a program that drops it would gain by files which that
/// group is denied (CVE-2022-2989, CVE-2023-25173).
fn user(wishes: &ContainerWishes, image: &ImageConfig, databases: &Databases) -> Result<User> {
    let of_image = image.user().as_deref().unwrap_or_default();
    let (UserSpec { user, group }, requested_gid) = match &wishes.user {
        RunAs::Image => (UserSpec::parse(of_image)?, None),
        RunAs::Uid { uid, gid } => (UserSpec { user: Account::Id(*uid), group: None }, *gid),
        RunAs::Name { name, gid } => {
            (UserSpec { user: Account::parse("run_as_username", name)?, group: None }, *gid)
        }
    };
    let found = databases.user(user)?;
    let gid = match (requested_gid, group) {
        (Some(gid), _) => gid,
        (None, Some(group)) => databases.group_id(group)?,
        (None, None) => found.gid,
    };
    let mut groups = vec![gid];
    // An image's `user:group` names the main group only; the others are the user's, as containerd has it.
    let of_image = found.groups.into_iter().filter(|_| !wishes.groups.strict);
    for group in of_image.chain(wishes.groups.ids.iter().copied()) {
        if groups.len() > ids::MOST_GROUPS {
            break; // The configuration is refused for it.
        }
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    let mut user = User::default();
    user.set_uid(found.uid).set_gid(gid).set_additional_gids(Some(groups));
    Ok(user)
}

fn nodes(wishes: &ContainerWishes) -> Result<Vec<(oci_spec::runtime::LinuxDevice, String)>> {
    let mut all = if wishes.privileged { devices::all_of_host()? } else { Vec::new() };
    for wish in &wishes.devices {
        let found = devices::below(&wish.host, &wish.inside)?;
        all.retain(|(known, _)| !found.iter().any(|node| node.path() == known.path()));
        all.extend(found.into_iter().map(|node| (node, wish.access.clone())));
    }
    Ok(all)
}

/// The runtime's own profile, where it is loaded.
const APPARMOR_PROFILE: &str = "coracle-default";

impl Pods {
    fn seccomp(
        &self,
        wishes: &ContainerWishes,
        spec: &oci_spec::runtime::Spec,
    ) -> Result<Option<LinuxSeccomp>> {
        match &wishes.confinement.seccomp {
            Profile::Unconfined => Ok(None),
            Profile::Localhost(path) => security::read_profile(path).map(Some),
            Profile::RuntimeDefault if !self.settings.seccomp => Ok(None),
            Profile::RuntimeDefault => {
                let sets = spec.process().as_ref().and_then(|process| process.capabilities().clone());
                let bounding = sets.and_then(|sets| sets.bounding().clone()).unwrap_or_default();
                Ok(Some(crate::seccomp::default_profile(&bounding)))
            }
        }
    }

    fn apparmor(&self, profile: &Profile) -> Result<Option<String>> {
        let loaded = || std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").ok();
        let has = |name: &str| {
            let prefix = format!("{name} (");
            loaded().is_some_and(|list| list.lines().any(|line| line.starts_with(&prefix)))
        };
        match profile {
            Profile::Unconfined => Ok(None),
            Profile::RuntimeDefault => {
                let name = Some(APPARMOR_PROFILE).filter(|name| self.settings.apparmor && has(name));
                Ok(name.map(str::to_owned))
            }
            Profile::Localhost(name) if has(name) => Ok(Some(name.clone())),
            Profile::Localhost(name) => {
                Err(Error::new(Kind::NotFound, format!("the AppArmor profile {name:?} is not loaded"))
                    .hint("load it with apparmor_parser, on a kernel with AppArmor"))
            }
        }
    }

    /// The label that kubelet names, completed as container-selinux has it.
    fn selinux(&self, wishes: &ContainerWishes) -> Option<String> {
        let label = wishes.confinement.selinux.as_ref().filter(|_| self.settings.selinux)?;
        let part =
            |given: &str, usual: &str| if given.is_empty() { usual.to_owned() } else { given.to_owned() };
        Some(format!(
            "{}:{}:{}:{}",
            part(&label.user, "system_u"),
            part(&label.role, "system_r"),
            part(&label.typ, "container_t"),
            part(&label.level, "s0")
        ))
    }
}

/// The CDI names of the GPUs that an image of NVIDIA's asks for by its environment.
fn gpus(spec: &oci_spec::runtime::Spec) -> Vec<String> {
    let env = spec.process().as_ref().and_then(|process| process.env().clone()).unwrap_or_default();
    let value = env.iter().find_map(|entry| entry.strip_prefix("NVIDIA_VISIBLE_DEVICES="));
    let wanted = value.unwrap_or_default().split(',').filter(|name| !matches!(*name, "" | "void" | "none"));
    wanted.map(|name| format!("nvidia.com/gpu={name}")).collect()
}
