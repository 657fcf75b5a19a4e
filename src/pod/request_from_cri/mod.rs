//! Converts kubelet's messages to typed requests, once per call. Pure: nothing is looked up on the host or in an image.
//! Malformed or contradictory input is refused as `Invalid`, with a message that names the field.

mod devices;
mod mounts;
mod namespaces;
mod network;
mod process;
mod resources;
mod security;
mod signal;
mod user;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use coracle_cri::v1;
use serde::{Deserialize, Serialize};

pub(super) use network::sysctl_path;
pub use network::{PortProtocol, PortRequest, TrafficLimits};
pub(super) use resources::{in_force, resources};
pub(super) use signal::signal_named;

use crate::error::{Error, Result};
use crate::spec::request::{Capabilities, ContainerRequest, NamespaceScopes, Scope};

/// The typed request for a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SandboxRequest {
    /// Its host name; none with the node's network, where the node's host name applies.
    pub hostname: Option<String>,
    /// The directory for the logs of its containers; none when logs are discarded.
    pub log_directory: Option<PathBuf>,
    /// The text of its /etc/resolv.conf; none for the node's.
    pub resolv_conf: Option<String>,
    /// The node's ports that are forwarded to it.
    pub ports: Vec<PortRequest>,
    /// Bandwidth limits, from annotations.
    pub traffic: TrafficLimits,
    /// The parent of its cgroup, in cgroupfs syntax.
    pub cgroup_parent: Option<PathBuf>,
    /// Sysctls to set in its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// The namespaces that its containers share.
    pub namespaces: NamespaceScopes,
}

impl SandboxRequest {
    /// Parses a pod's configuration. The security context of the pod's own process is checked but not applied: that process
    /// runs without any privilege.
    ///
    /// # Errors
    /// `Invalid`, naming the field that is malformed or contradicts another.
    pub fn from_cri(config: &v1::PodSandboxConfig) -> Result<Self> {
        let linux = config.linux.clone().unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        let namespaces = namespaces::of_sandbox(security.namespace_options.as_ref())?;
        network::check_sysctls(&linux.sysctls, &namespaces)?;
        let own_network = namespaces.network == Scope::Pod;
        user::group_ids(&security.supplemental_groups)?;
        user::user(security.run_as_user, security.run_as_group, "")?;
        security::check_sandbox(&security)?;
        resources(linux.resources.as_ref())?;
        resources(linux.overhead.as_ref())?;
        Ok(Self {
            hostname: network::hostname(&config.hostname, own_network)?,
            log_directory: path("log_directory", &config.log_directory)?,
            resolv_conf: config.dns_config.as_ref().map(network::resolv_conf).transpose()?.flatten(),
            ports: network::ports(&config.port_mappings)?,
            traffic: TrafficLimits::of(&config.annotations)?,
            cgroup_parent: path("linux.cgroup_parent", &linux.cgroup_parent)?,
            sysctls: linux.sysctls,
            namespaces,
        })
    }
}

/// The typed request for a container of a pod.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CreateRequest {
    /// The container.
    pub container: ContainerRequest,
    /// The path of its log; none when its output is discarded.
    pub log_path: Option<PathBuf>,
    /// Whether its stdin is kept open for attach.
    pub stdin: bool,
    /// Whether its stdin is closed when the first attached client disconnects.
    pub stdin_once: bool,
    /// Its stop signal, such as `SIGTERM` or `SIGRTMIN+3`; none for the image's.
    pub stop_signal: Option<String>,
}

impl CreateRequest {
    /// Parses the configuration of a container of this pod. Its annotations are not passed on: they control runtimes and hooks,
    /// and whoever may create a pod must not control those of the node (CVE-2026-53488).
    ///
    /// # Errors
    /// `Invalid`, naming the field that is malformed or contradicts another.
    pub fn from_cri(config: &v1::ContainerConfig, pod: &SandboxRequest) -> Result<Self> {
        let linux = config.linux.clone().unwrap_or_default();
        let security = linux.security_context.unwrap_or_default();
        let (resources, oom_score_adj) = resources(linux.resources.as_ref())?;
        let own = namespaces::of_container(security.namespace_options.as_ref())?;
        let (seccomp, apparmor) = security::profiles(&security)?;
        let capabilities = security::capabilities(security.capabilities.as_ref())?;
        let namespaces = namespaces::within(&pod.namespaces, own);
        let container = ContainerRequest {
            // The owner of the host's network namespace is the host's user namespace: sysfs, which shows it, cannot be mounted.
            bind_sys: namespaces.network == Scope::Host && namespaces.user.is_some(),
            process: process::process(config, &security, oom_score_adj)?,
            user: user::user(security.run_as_user, security.run_as_group, &security.run_as_username)?,
            groups: user::groups(&security)?,
            privileged: security.privileged,
            read_only_root: security.readonly_rootfs,
            mounts: mounts::all(&config.mounts)?,
            devices: devices::all(&config.devices)?,
            cdi_devices: devices::cdi(&config.cdi_devices, &config.annotations)?,
            namespaces,
            // A privileged container has every capability, whatever the lists say.
            capabilities: if security.privileged { Capabilities::default() } else { capabilities },
            seccomp,
            apparmor,
            selinux_label: security::selinux_label(security.selinux_options.as_ref()),
            masked_paths: security::paths("masked_paths", &security.masked_paths, security.privileged)?,
            readonly_paths: security::paths("readonly_paths", &security.readonly_paths, security.privileged)?,
            resources,
            cgroup_parent: pod.cgroup_parent.clone(),
            ..ContainerRequest::default()
        };
        Ok(Self {
            container,
            log_path: log_path(pod.log_directory.as_deref(), &config.log_path)?,
            stdin: config.stdin,
            stdin_once: config.stdin_once,
            stop_signal: signal::signal_name(config.stop_signal)?,
        })
    }
}

/// An absolute path, or none.
fn path(field: &str, text: &str) -> Result<Option<PathBuf>> {
    if text.is_empty() { Ok(None) } else { absolute(field, text).map(Some) }
}

/// An absolute path without NUL.
fn absolute(field: &str, text: &str) -> Result<PathBuf> {
    if !text.starts_with('/') || text.contains('\0') {
        return Err(Error::invalid(format!("{field} {text:?} is not an absolute path")));
    }
    Ok(PathBuf::from(text))
}

/// The absolute path of the log. It must be in the pod's log directory: nothing may be written elsewhere on the node.
fn log_path(directory: Option<&Path>, path: &str) -> Result<Option<PathBuf>> {
    let Some(directory) = directory.filter(|_| !path.is_empty()) else { return Ok(None) };
    let below = PathBuf::from(path);
    if !below.components().all(|part| matches!(part, std::path::Component::Normal(_))) || path.contains('\0')
    {
        return Err(Error::invalid(format!("log_path {path:?} does not stay in the pod's log directory")));
    }
    Ok(Some(directory.join(below)))
}

#[cfg(test)]
mod tests;
