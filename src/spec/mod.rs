//! The only way from a request to a runtime configuration. SPEC(runtime 1.2 #config)
//!
//! ```text
//! flags of launch  --cli::launch::flags-->    \
//! CRI messages     --pod::request_from_cri-->  ContainerRequest --+ Resolved--> build() --> Spec
//! coracle spec     --template-->              /
//! ```
//!
//! | file | holds |
//! |---|---|
//! | `request` | the request, as data |
//! | `defaults` | the defaults of a container |
//! | `process` | arguments, environment, working directory |
//! | `mounts`, `image_volumes` | filesystems |
//! | `devices` | device nodes of the host |
//! | `user` | users and groups, looked up in the image |
//! | `security` | capabilities and seccomp |
//! | `template` | the configuration that `coracle spec` writes |

pub mod defaults;
pub mod devices;
pub mod image_volumes;
pub mod mounts;
pub mod process;
pub mod request;
pub mod security;
pub mod template;
pub mod user;

use std::path::PathBuf;

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxDeviceCgroup, LinuxNamespace, LinuxNamespaceType, LinuxResources, LinuxSeccomp,
    Mount, Root, Spec,
};

use crate::error::Result;
use request::ContainerRequest;
use user::ResolvedUser;

/// Everything a request refers to, looked up in the image, created or decided on this host.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    /// The mounted root filesystem.
    pub root: PathBuf,
    /// The image's configuration.
    pub image: ImageConfig,
    /// The host name that the variable HOSTNAME shows; the variable is not set when none.
    pub hostname: Option<String>,
    /// The user, found in the image.
    pub user: ResolvedUser,
    /// All namespaces that are not the host's, with the files of those that are joined.
    pub namespaces: Vec<LinuxNamespace>,
    /// `linux.cgroupsPath`
    pub cgroup: Option<PathBuf>,
    /// Host files mounted into the container, such as /etc/hosts.
    pub files: Vec<Mount>,
    /// The sources of the request's mounts, in their order.
    pub sources: Vec<PathBuf>,
    /// Mounts for the volumes of the image; see [`image_volumes`].
    pub image_volumes: Vec<Mount>,
    /// Device nodes with their access; see [`devices::resolve`].
    pub devices: Vec<(LinuxDevice, String)>,
    /// The seccomp profile; see [`security::seccomp`].
    pub seccomp: Option<LinuxSeccomp>,
    /// The name of the AppArmor profile.
    pub apparmor: Option<String>,
    /// The SELinux label of the process.
    pub selinux_label: Option<String>,
}

/// Builds the runtime configuration of a container.
///
/// # Errors
/// `Invalid` when there is no command or the request contradicts itself; `Bug` when a mount has no source.
pub fn build(request: &ContainerRequest, resolved: &Resolved) -> Result<Spec> {
    let mut root = Root::default();
    root.set_path(resolved.root.clone()).set_readonly(Some(request.read_only_root));
    let mut mounts = mounts::all(request, &resolved.files, &resolved.sources)?;
    mounts.extend(resolved.image_volumes.iter().cloned());
    let annotations = request.annotations.clone().into_iter().collect();
    let mut spec = Spec::default();
    spec.set_version(crate::record::OCI_VERSION.to_owned())
        .set_hostname(request.hostname.clone())
        .set_annotations((!request.annotations.is_empty()).then_some(annotations))
        .set_root(Some(root))
        .set_process(Some(process::process(request, resolved)?))
        .set_mounts(Some(mounts))
        .set_linux(Some(linux(request, resolved)));
    Ok(spec)
}

fn linux(request: &ContainerRequest, resolved: &Resolved) -> Linux {
    let texts = |paths: &[PathBuf]| {
        let list: Vec<_> = paths.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        (!list.is_empty()).then_some(list)
    };
    let nodes: Vec<LinuxDevice> = resolved.devices.iter().map(|(node, _)| node.clone()).collect();
    let sysctls = request.sysctls.clone().into_iter().collect();
    let user = request.namespaces.user.as_ref();
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(resolved.namespaces.clone()))
        .set_uid_mappings(user.map(|user| user.uids.clone()))
        .set_gid_mappings(user.map(|user| user.gids.clone()))
        .set_cgroups_path(resolved.cgroup.clone())
        .set_resources(Some(resources(request, resolved)))
        .set_devices((!nodes.is_empty()).then_some(nodes))
        .set_sysctl((!request.sysctls.is_empty()).then_some(sysctls))
        .set_masked_paths(texts(&request.masked_paths))
        .set_readonly_paths(texts(&request.readonly_paths))
        .set_rootfs_propagation(mounts::root_propagation(request))
        .set_seccomp(resolved.seccomp.clone());
    linux
}

/// The limits, and the rules for devices: only the listed ones are allowed, or all for a privileged container.
fn resources(request: &ContainerRequest, resolved: &Resolved) -> LinuxResources {
    let mut all = LinuxDeviceCgroup::default();
    all.set_allow(request.privileged).set_access(Some("rwm".to_owned()));
    let listed = resolved.devices.iter().map(|(node, access)| {
        let mut rule = LinuxDeviceCgroup::from(node);
        rule.set_access(Some(access.clone()));
        rule
    });
    let mut resources = request.resources.clone();
    resources.set_devices(Some(std::iter::once(all).chain(listed).collect()));
    resources
}

/// A namespace to create, or to join at a path.
pub fn namespace(kind: LinuxNamespaceType, path: Option<PathBuf>) -> LinuxNamespace {
    let mut namespace = LinuxNamespace::default();
    namespace.set_typ(kind).set_path(path);
    namespace
}

#[cfg(test)]
mod tests;
