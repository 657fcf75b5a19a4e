//! From what kubelet sends to terms of the OCI runtime specification. Pure: nothing is looked up, on the host or in an
//! image; what contradicts itself is refused as `Invalid`, with a message that names the field.

mod command;
mod devices;
mod mounts;
mod namespaces;
mod network;
mod resources;
mod security;
mod signal;
mod spec;
mod user;

use std::collections::BTreeMap;
use std::path::PathBuf;

pub use command::{ImageDefaults, Variable};
pub use devices::DeviceWish;
pub use mounts::{MountWish, Propagation, ReadOnly, Source};
pub use namespaces::{Namespaces, Scope, UserNamespace};
pub use network::{Bandwidth, PortMapping, Protocol, sysctl_path};
pub use resources::Resources;
pub use security::{Capabilities, Confinement, Profile, SelinuxLabel};
pub use signal::{signal_name, signal_named};
pub use spec::Place;
pub use user::{Groups, RunAs};

use crate::error::{Error, Result};
use crate::v1;

/// What a pod asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxWishes {
    /// Its host name; none with the node's network, where the node's stays.
    pub hostname: Option<String>,
    /// Where its containers' logs go; none when they are not kept.
    pub log_directory: Option<PathBuf>,
    /// The text of its /etc/resolv.conf; the node's when none.
    pub resolv_conf: Option<String>,
    /// Ports of the node that lead to it.
    pub ports: Vec<PortMapping>,
    /// Limits on its traffic, from annotations.
    pub bandwidth: Bandwidth,
    /// The cgroup above its own, in cgroupfs syntax.
    pub cgroup_parent: Option<PathBuf>,
    /// Kernel parameters of its own namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// The namespaces its containers share.
    pub namespaces: Namespaces,
    /// The user of the pod's own process, should it have one.
    pub user: RunAs,
    /// How the pod's own process is confined.
    pub confinement: Confinement,
    /// Whether privileged containers are to be expected.
    pub privileged: bool,
    /// What the pod as a whole may use, with what itself adds to its containers.
    pub resources: Resources,
    /// What the pod itself adds.
    pub overhead: Resources,
}

impl SandboxWishes {
    /// Reads a pod's configuration.
    ///
    /// # Errors
    /// `Invalid`, naming the field that is missing, malformed or contradicts another.
    pub fn of(config: &v1::PodSandboxConfig) -> Result<Self> {
        let metadata = config.metadata.as_ref().ok_or_else(|| missing("metadata"))?;
        for (field, text) in
            [("name", &metadata.name), ("namespace", &metadata.namespace), ("uid", &metadata.uid)]
        {
            if text.is_empty() {
                return Err(missing(&format!("metadata.{field}")));
            }
        }
        let linux = config.linux.clone().unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        let namespaces = Namespaces::of_sandbox(security.namespace_options.as_ref())?;
        network::check_sysctls(&linux.sysctls, &namespaces)?;
        let own_network = namespaces.network == Scope::Pod;
        user::group_ids(&security.supplemental_groups)?;
        Ok(Self {
            hostname: network::hostname(&config.hostname, own_network)?,
            log_directory: directory("log_directory", &config.log_directory)?,
            resolv_conf: config.dns_config.as_ref().map(network::resolv_conf).transpose()?.flatten(),
            ports: network::ports(&config.port_mappings)?,
            bandwidth: Bandwidth::of(&config.annotations)?,
            cgroup_parent: directory("linux.cgroup_parent", &linux.cgroup_parent)?,
            sysctls: linux.sysctls,
            user: RunAs::of(security.run_as_user, security.run_as_group, "")?,
            confinement: Confinement::of_sandbox(&security)?,
            privileged: security.privileged,
            resources: Resources::of(linux.resources.as_ref())?,
            overhead: Resources::of(linux.overhead.as_ref())?,
            namespaces,
        })
    }
}

/// What a container asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerWishes {
    /// Replaces the image's entrypoint when it is not empty.
    pub command: Vec<String>,
    /// Replaces the image's command when it is not empty.
    pub args: Vec<String>,
    /// The working directory; the image's when none.
    pub working_dir: Option<PathBuf>,
    /// Environment variables, in order.
    pub env: Vec<Variable>,
    /// Where its log goes; none when it is not kept.
    pub log_path: Option<PathBuf>,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input is kept open for attach.
    pub stdin: bool,
    /// Whether its standard input is closed when the first attached client goes.
    pub stdin_once: bool,
    /// What its end begins with, as `SIGTERM` or `SIGRTMIN+3`; the image's when none.
    pub stop_signal: Option<String>,
    /// Its volumes, in the order to be mounted.
    pub mounts: Vec<MountWish>,
    /// Devices of the node.
    pub devices: Vec<DeviceWish>,
    /// Names of CDI devices, `vendor/class=name`, each once.
    pub cdi_devices: Vec<String>,
    /// The namespaces it lives in.
    pub namespaces: Namespaces,
    /// The user of its process.
    pub user: RunAs,
    /// The other groups of its process.
    pub groups: Groups,
    /// What its process may do.
    pub capabilities: Capabilities,
    /// How it is confined.
    pub confinement: Confinement,
    /// Whether it may do all that the node's root may.
    pub privileged: bool,
    /// Whether its root is read-only.
    pub readonly_rootfs: bool,
    /// Whether its process can gain nothing by execve.
    pub no_new_privileges: bool,
    /// Paths hidden from it.
    pub masked_paths: Vec<PathBuf>,
    /// Paths it cannot write to.
    pub readonly_paths: Vec<PathBuf>,
    /// What it may use.
    pub resources: Resources,
}

impl ContainerWishes {
    /// Reads a container's configuration, with that of its pod.
    ///
    /// # Errors
    /// `Invalid`, naming the field that is missing, malformed or contradicts another.
    pub fn of(config: &v1::ContainerConfig, sandbox: &v1::PodSandboxConfig) -> Result<Self> {
        let metadata = config.metadata.as_ref().ok_or_else(|| missing("metadata"))?;
        if metadata.name.is_empty() {
            return Err(missing("metadata.name"));
        }
        if config.image.as_ref().is_none_or(|i| i.image.is_empty()) {
            return Err(missing("image.image"));
        }
        let linux = config.linux.clone().unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        Ok(Self {
            command: config.command.clone(),
            args: config.args.clone(),
            working_dir: directory("working_dir", &config.working_dir)?,
            env: command::variables(&config.envs)?,
            log_path: log_path(&sandbox.log_directory, &config.log_path)?,
            tty: config.tty,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            stop_signal: signal_name(config.stop_signal)?,
            mounts: mounts::all(&config.mounts)?,
            devices: devices::all(&config.devices)?,
            cdi_devices: devices::cdi(&config.cdi_devices, &config.annotations)?,
            namespaces: Namespaces::of_container(security.namespace_options.as_ref())?,
            user: RunAs::of(security.run_as_user, security.run_as_group, &security.run_as_username)?,
            groups: Groups::of(&security)?,
            capabilities: Capabilities::of(security.capabilities.as_ref(), security.privileged)?,
            confinement: Confinement::of_container(&security)?,
            privileged: security.privileged,
            readonly_rootfs: security.readonly_rootfs,
            no_new_privileges: security.no_new_privs,
            masked_paths: security::hidden("masked_paths", &security.masked_paths, security.privileged)?,
            readonly_paths: security::hidden(
                "readonly_paths",
                &security.readonly_paths,
                security.privileged,
            )?,
            resources: Resources::of(linux.resources.as_ref())?,
        })
    }
}

fn missing(field: &str) -> Error {
    Error::invalid(format!("{field} is missing"))
}

/// An absolute path, or none.
fn directory(field: &str, text: &str) -> Result<Option<PathBuf>> {
    if text.is_empty() { Ok(None) } else { absolute(field, text).map(Some) }
}

/// An absolute path without NUL.
fn absolute(field: &str, text: &str) -> Result<PathBuf> {
    if !text.starts_with('/') || text.contains('\0') {
        return Err(Error::invalid(format!("{field} {text:?} is not an absolute path")));
    }
    Ok(PathBuf::from(text))
}

/// The log's absolute path. kubelet looks for it below the pod's directory, and nowhere else shall one be written.
fn log_path(directory: &str, path: &str) -> Result<Option<PathBuf>> {
    if directory.is_empty() || path.is_empty() {
        return Ok(None);
    }
    let below = PathBuf::from(path);
    if !below.components().all(|part| matches!(part, std::path::Component::Normal(_))) || path.contains('\0')
    {
        return Err(Error::invalid(format!("log_path {path:?} does not stay in the pod's log directory")));
    }
    Ok(Some(absolute("log_directory", directory)?.join(below)))
}

#[cfg(test)]
mod tests;
