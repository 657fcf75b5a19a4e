//! What a container's request refers to, found on this node: root, user, namespaces, cgroup, devices, profiles.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Process, Spec};

use super::container::Prepared;
use super::records::Directory;
use super::sandbox::Sandbox;
use super::{Pods, cdi, files};
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::linux::id_map::IdMaps;
use crate::linux::private;
use crate::spec::request::{ContainerRequest, NamespaceScopes, Profile, Scope};
use crate::spec::user::{self, Databases};
use crate::spec::{self, Resolved, devices, image_volumes, namespace, security};
use crate::store::ImageRecord;

/// The slice of pods that name none.
const DEFAULT_SLICE: &str = "system.slice";

/// The cgroup above those of pods that name none.
const DEFAULT_PARENT: &str = "/coracle";

/// The runtime's own AppArmor profile, where it is loaded.
const APPARMOR_PROFILE: &str = "coracle-default";

impl Pods {
    /// Mounts a container's root, looks up what its request refers to, and builds the runtime configuration.
    ///
    /// # Errors
    /// Something that is asked for is not there, or cannot be had on this node.
    pub(super) fn prepare(
        &self,
        id: &str,
        sandbox: &Sandbox,
        image: &ImageRecord,
        request: &ContainerRequest,
    ) -> Result<Prepared> {
        let stored = self.store.container_dir(&ContainerId::parse(id)?);
        let layer = if self.settings.layers_in_memory { self.directories.layer(id) } else { stored.clone() };
        let root = self.mount_root(image, &layer, request)?;
        let resolved = self.resolve(id, sandbox, image, request, (&stored, &root))?;
        let mut spec = spec::build(request, &resolved)?;
        let mut devices = request.cdi_devices.clone();
        if self.offer().handlers.get(&sandbox.handler()) == Some(&true) {
            devices.extend(gpus(&spec));
        }
        cdi::inject(&devices, &mut spec)?;
        Ok(Prepared { spec, root })
    }

    fn resolve(
        &self,
        id: &str,
        sandbox: &Sandbox,
        image: &ImageRecord,
        request: &ContainerRequest,
        (stored, root): (&Path, &OwnedFd),
    ) -> Result<Resolved> {
        let inside = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        let config = self.store.config(image)?.config().clone().unwrap_or_default();
        let of_image = config.user().as_deref().unwrap_or_default();
        let files = files::mounts(&sandbox.request, &sandbox.directory, request.read_only_root);
        let is_covered = |path: &Path| {
            spec::mounts::is_covered(request, path) || files.iter().any(|file| file.destination() == path)
        };
        let read_only = request.read_only_root;
        Ok(Resolved {
            root: stored.join("root"),
            hostname: Some(sandbox.hostname()),
            user: user::resolve(&request.user, &request.groups, of_image, &Databases::read(&inside)?)?,
            namespaces: self.namespaces(request, &sandbox.directory)?,
            cgroup: Some(self.cgroup_of(request.cgroup_parent.as_deref(), id)),
            sources: self.sources(request, &sandbox.directory.container(id))?,
            image_volumes: image_volumes::of_image(&config, &is_covered, read_only, stored, &inside)?,
            devices: devices::resolve(request)?,
            seccomp: self.seccomp(request)?,
            apparmor: self.apparmor(&request.apparmor)?,
            selinux_label: request.selinux_label.clone().filter(|_| self.settings.selinux),
            files,
            image: config,
        })
    }

    /// A container's root: its image's layers below a writable one.
    fn mount_root(&self, image: &ImageRecord, layer: &Path, request: &ContainerRequest) -> Result<OwnedFd> {
        if self.settings.layers_in_memory {
            private::make_dirs(layer, private::DIR).doing(|| format!("make {}", layer.display()))?;
        }
        // Left over from the preparation by an earlier daemon, and written to by nobody: the kernel mounts a volatile
        // layer only once.
        for name in ["upper", "work"] {
            crate::store::remove_tree(&layer.join(name))?;
        }
        let lower = self.store.lower_dirs(image);
        match &request.namespaces.user {
            Some(ids) => {
                let maps = IdMaps::new(&ids.uids, &ids.gids);
                let host = |list: &[LinuxIdMapping]| list.first().map_or(0, LinuxIdMapping::host_id);
                let root = (host(&ids.uids), host(&ids.gids));
                crate::image::rootfs::mount_mapped(&lower, layer, &maps, root)
            }
            // The layer is removed with its container: it is never synced, so that flash is not worn for nothing.
            None => crate::image::rootfs::mount(&lower, layer, true),
        }
    }

    fn namespaces(&self, request: &ContainerRequest, pod: &Directory) -> Result<Vec<LinuxNamespace>> {
        let own = &request.namespaces;
        let mut all: Vec<_> = namespaces_of(own, pod).collect();
        all.push(namespace(LinuxNamespaceType::Mount, None));
        if crate::cgroup::mode()? == crate::cgroup::Mode::V2 && !request.privileged {
            all.push(namespace(LinuxNamespaceType::Cgroup, None));
        }
        match &own.pid {
            Scope::Container => all.push(namespace(LinuxNamespaceType::Pid, None)),
            Scope::Pod => all.push(namespace(LinuxNamespaceType::Pid, Some(pod.join("pid")))),
            Scope::Target(id) => {
                let path = format!("/proc/{}/ns/pid", self.pid_of(&self.running(id)?.id)?);
                all.push(namespace(LinuxNamespaceType::Pid, Some(path.into())));
            }
            Scope::Host => {}
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

/// The namespaces that a pod's processes share.
pub(super) fn namespaces_of(own: &NamespaceScopes, pod: &Directory) -> impl Iterator<Item = LinuxNamespace> {
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

impl Pods {
    /// The profile that a container asks for; the default one only where it is in force.
    fn seccomp(&self, request: &ContainerRequest) -> Result<Option<LinuxSeccomp>> {
        match request.seccomp {
            Profile::RuntimeDefault if !self.settings.seccomp => Ok(None),
            _ => security::seccomp(request),
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
}

/// The CDI names of the GPUs that an image of NVIDIA's asks for by its environment.
fn gpus(spec: &Spec) -> Vec<String> {
    let env = spec.process().as_ref().and_then(|process: &Process| process.env().clone()).unwrap_or_default();
    let value = env.iter().find_map(|entry| entry.strip_prefix("NVIDIA_VISIBLE_DEVICES="));
    let wanted = value.unwrap_or_default().split(',').filter(|name| !matches!(*name, "" | "void" | "none"));
    wanted.map(|name| format!("nvidia.com/gpu={name}")).collect()
}
