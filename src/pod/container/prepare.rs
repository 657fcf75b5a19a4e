//! Prepares a start: mounts the root, looks up what the request refers to on this node, and builds the OCI spec.

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, Process, Spec};

use super::{Containers, Prepared};
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::linux::id_map::IdMaps;
use crate::linux::private;
use crate::pod::records::Directory;
use crate::pod::sandbox::{Sandbox, shared_namespaces};
use crate::pod::{cdi, files, volumes};
use crate::spec::request::{ContainerRequest, Profile, Scope};
use crate::spec::user::{self, Databases};
use crate::spec::{self, Resolved, devices, image_volumes, namespace, security};
use crate::store::ImageRecord;

/// The AppArmor profile that the packages install for `RuntimeDefault`.
const APPARMOR_PROFILE: &str = "coracle-default";

impl Containers {
    /// Mounts a container's root, looks up what its request refers to, and builds the runtime configuration.
    ///
    /// # Errors
    /// Something that the request refers to does not exist or is not available on this node.
    pub(super) fn prepare(
        &self,
        id: &str,
        sandbox: &Sandbox,
        image: &ImageRecord,
        request: &ContainerRequest,
    ) -> Result<Prepared> {
        let stored = self.host.store.container_dir(&ContainerId::parse(id)?);
        let root = self.mount_root(image, &self.host.layer(id)?, request)?;
        let resolved = self.resolve(id, sandbox, image, request, (&stored, &root))?;
        let mut spec = spec::build(request, &resolved)?;
        let mut devices = request.cdi_devices.clone();
        if self.host.offer().handlers.get(&sandbox.handler()) == Some(&true) {
            devices.extend(nvidia_gpus(&spec));
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
        let config = self.host.store.config(image)?.config().clone().unwrap_or_default();
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
            cgroup: Some(self.host.cgroup_path(request.cgroup_parent.as_deref(), id)),
            sources: volumes::sources(&self.host.store, id, request, &sandbox.directory.container(id))?,
            image_volumes: image_volumes::of_image(&config, &is_covered, read_only, stored, &inside)?,
            devices: devices::resolve(request)?,
            seccomp: self.seccomp(request)?,
            apparmor: self.apparmor(&request.apparmor)?,
            selinux_label: request.selinux_label.clone().filter(|_| self.host.settings.selinux),
            files,
            image: config,
        })
    }

    /// Mounts a container's root: the image's layers below a writable one.
    fn mount_root(&self, image: &ImageRecord, layer: &Path, request: &ContainerRequest) -> Result<OwnedFd> {
        if self.host.settings.layers_in_memory {
            private::make_dirs(layer, private::DIR).doing(|| format!("make {}", layer.display()))?;
        }
        // Left over if an earlier daemon prepared the container, and still empty. The kernel refuses to mount a volatile
        // upper layer a second time.
        for name in ["upper", "work"] {
            crate::store::remove_tree(&layer.join(name))?;
        }
        let lower = self.host.store.lower_dirs(image);
        match &request.namespaces.user {
            Some(ids) => {
                let maps = IdMaps::new(&ids.uids, &ids.gids);
                let host = |list: &[LinuxIdMapping]| list.first().map_or(0, LinuxIdMapping::host_id);
                let root = (host(&ids.uids), host(&ids.gids));
                crate::image::rootfs::mount_mapped(&lower, layer, &maps, root)
            }
            // Volatile: the layer is removed with its container, so syncing it would only wear the flash.
            None => crate::image::rootfs::mount(&lower, layer, true),
        }
    }

    fn namespaces(&self, request: &ContainerRequest, pod: &Directory) -> Result<Vec<LinuxNamespace>> {
        let own = &request.namespaces;
        let mut all: Vec<_> = shared_namespaces(own, pod).collect();
        all.push(namespace(LinuxNamespaceType::Mount, None));
        if crate::cgroup::mode()? == crate::cgroup::Mode::V2 && !request.privileged {
            all.push(namespace(LinuxNamespaceType::Cgroup, None));
        }
        match &own.pid {
            Scope::Container => all.push(namespace(LinuxNamespaceType::Pid, None)),
            Scope::Pod => all.push(namespace(LinuxNamespaceType::Pid, Some(pod.join("pid")))),
            Scope::Target(id) => {
                let path = format!("/proc/{}/ns/pid", self.host.init_pid(&self.running(id)?.id)?);
                all.push(namespace(LinuxNamespaceType::Pid, Some(path.into())));
            }
            Scope::Host => {}
        }
        Ok(all)
    }
}

impl Containers {
    /// The seccomp profile that a container requests; the default one only if the settings enable it.
    fn seccomp(&self, request: &ContainerRequest) -> Result<Option<LinuxSeccomp>> {
        match request.seccomp {
            Profile::RuntimeDefault if !self.host.settings.seccomp => Ok(None),
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
                let name = Some(APPARMOR_PROFILE).filter(|name| self.host.settings.apparmor && has(name));
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

/// The CDI names of the GPUs that an NVIDIA image requests through its environment.
fn nvidia_gpus(spec: &Spec) -> Vec<String> {
    let env = spec.process().as_ref().and_then(|process: &Process| process.env().clone()).unwrap_or_default();
    let value = env.iter().find_map(|entry| entry.strip_prefix("NVIDIA_VISIBLE_DEVICES="));
    let wanted = value.unwrap_or_default().split(',').filter(|name| !matches!(*name, "" | "void" | "none"));
    wanted.map(|name| format!("nvidia.com/gpu={name}")).collect()
}
