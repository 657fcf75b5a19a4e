//! Kernel parameters that a pod with its own network namespace gets unless it sets them itself, as in containerd's default
//! configuration.

use std::path::Path;

use crate::pod::host::Settings;
use crate::pod::request_from_cri::{SandboxRequest, sysctl_path};
use crate::spec::request::Scope;

/// The first port that needs no privilege.
const PORTS: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "0");

/// The groups whose members may open ICMP echo sockets: all.
const ICMP: (&str, &str) = ("net.ipv4.ping_group_range", "0 2147483647");

/// Adds the default parameters to those of the pod.
pub(super) fn add_defaults(settings: &Settings, request: &mut SandboxRequest) {
    // In a user namespace not all groups exist, and the kernel refuses a range with others.
    let has_all_groups = request.namespaces.user.is_none() && !crate::cgroup::in_user_namespace();
    let defaults =
        [(PORTS, settings.unprivileged_ports), (ICMP, settings.unprivileged_icmp && has_all_groups)];
    if request.namespaces.network != Scope::Pod {
        return;
    }
    for ((key, value), _) in defaults.into_iter().filter(|(_, is_wanted)| *is_wanted) {
        let path = sysctl_path(key);
        let is_set = request.sysctls.keys().any(|own| sysctl_path(own) == path);
        // Linux 4.11 and later have both.
        if !is_set && Path::new("/proc/sys").join(&path).exists() {
            request.sysctls.insert(key.to_owned(), value.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use coracle_cri::v1;

    use super::*;

    fn settings(is_on: bool) -> Settings {
        Settings {
            run: "/run".into(),
            root: "/run".into(),
            cache: "/run".into(),
            systemd_cgroup: false,
            layers_in_memory: false,
            seccomp: false,
            apparmor: false,
            selinux: false,
            serves_cadvisor: false,
            unprivileged_ports: is_on,
            unprivileged_icmp: is_on,
        }
    }

    /// The parameters of a pod with these of its own.
    fn of(is_on: bool, options: v1::NamespaceOption, own: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = own.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let config = v1::PodSandboxConfig {
            metadata: Some(v1::PodSandboxMetadata { name: "p".to_owned(), ..Default::default() }),
            linux: Some(v1::LinuxPodSandboxConfig {
                sysctls: own.collect(),
                security_context: Some(v1::LinuxSandboxSecurityContext {
                    namespace_options: Some(options),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let mut request = SandboxRequest::from_cri(&config).unwrap();
        add_defaults(&settings(is_on), &mut request);
        request.sysctls.into_iter().collect()
    }

    fn set(all: &[(&str, &str)]) -> Vec<(String, String)> {
        all.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_pods_own_parameter_takes_precedence_however_it_is_written() {
        let plain = v1::NamespaceOption::default;
        assert_eq!(of(true, plain(), &[]), set(&[PORTS, ICMP]));
        assert_eq!(of(false, plain(), &[]), []);
        let own = [("net.ipv4.ip_unprivileged_port_start", "500")];
        assert_eq!(of(true, plain(), &own), set(&[own[0], ICMP]));
        let own = [("net/ipv4/ping_group_range", "1 0")];
        assert_eq!(of(true, plain(), &own), set(&[PORTS, own[0]]));
    }

    #[test]
    fn the_nodes_network_and_the_groups_of_user_namespaces_stay_as_they_are() {
        let node = v1::NamespaceOption { network: v1::NamespaceMode::Node.into(), ..Default::default() };
        assert_eq!(of(true, node, &[]), []);
        let mapping = || vec![v1::IdMapping { host_id: 200_000, container_id: 0, length: 65_536 }];
        let user =
            v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: mapping(), gids: mapping() };
        let mapped = v1::NamespaceOption { userns_options: Some(user), ..Default::default() };
        assert_eq!(of(true, mapped, &[]), set(&[PORTS]));
    }
}
