//! The namespace options of pods and containers.

use oci_spec::runtime::LinuxIdMapping;

use coracle_cri::v1;

use crate::error::{Error, Result};
use crate::spec::request::{NamespaceScopes, Scope, UserNamespace};

pub(super) fn of_sandbox(options: Option<&v1::NamespaceOption>) -> Result<NamespaceScopes> {
    let all = of_container(options)?;
    if matches!(all.pid, Scope::Target(_)) {
        return Err(Error::invalid("namespace_options.pid: TARGET is for containers, not for pods"));
    }
    Ok(all)
}

pub(super) fn of_container(options: Option<&v1::NamespaceOption>) -> Result<NamespaceScopes> {
    let options = options.cloned().unwrap_or_default();
    Ok(NamespaceScopes {
        network: pod_or_node("network", options.network)?,
        pid: match mode("pid", options.pid)? {
            v1::NamespaceMode::Pod => Scope::Pod,
            v1::NamespaceMode::Container => Scope::Container,
            v1::NamespaceMode::Node => Scope::Host,
            v1::NamespaceMode::Target if options.target_id.is_empty() => {
                return Err(Error::invalid("namespace_options.pid is TARGET but target_id is empty"));
            }
            v1::NamespaceMode::Target => Scope::Target(options.target_id.clone()),
        },
        ipc: pod_or_node("ipc", options.ipc)?,
        user: options.userns_options.as_ref().map(user_namespace).transpose()?.flatten(),
    })
}

/// The namespaces of a container in a pod. For namespaces that the container shares with its pod, the pod's configuration
/// decides, not what the container's repeats.
pub(super) fn within(pod: &NamespaceScopes, container: NamespaceScopes) -> NamespaceScopes {
    let pid = match (container.pid, &pod.pid) {
        // The pod has no shared PID namespace.
        (Scope::Pod, Scope::Container | Scope::Host) => pod.pid.clone(),
        (own, _) => own,
    };
    NamespaceScopes { pid, ..pod.clone() }
}

fn mode(field: &str, value: i32) -> Result<v1::NamespaceMode> {
    v1::NamespaceMode::try_from(value)
        .map_err(|_| Error::invalid(format!("namespace_options.{field}: there is no mode {value}")))
}

fn pod_or_node(field: &str, value: i32) -> Result<Scope> {
    match mode(field, value)? {
        v1::NamespaceMode::Pod => Ok(Scope::Pod),
        v1::NamespaceMode::Node => Ok(Scope::Host),
        other => Err(Error::invalid(format!(
            "namespace_options.{field} is {}: only POD and NODE exist for it",
            other.as_str_name()
        ))),
    }
}

fn user_namespace(options: &v1::UserNamespace) -> Result<Option<UserNamespace>> {
    let refuse = |why: &str| Err(Error::invalid(format!("userns_options: {why}")));
    match mode("userns_options.mode", options.mode)? {
        v1::NamespaceMode::Node if options.uids.is_empty() && options.gids.is_empty() => Ok(None),
        v1::NamespaceMode::Node => refuse("mode NODE goes with no mappings"),
        v1::NamespaceMode::Pod => {
            let (uids, gids) = (one_range("uids", &options.uids)?, one_range("gids", &options.gids)?);
            Ok(Some(UserNamespace { uids: vec![uids], gids: vec![gids] }))
        }
        v1::NamespaceMode::Container | v1::NamespaceMode::Target => {
            refuse("only the modes POD and NODE exist for it")
        }
    }
}

/// The one range that kubelet allocates for a pod. It must map root: without a user 0 inside, nothing could be set up.
fn one_range(field: &str, list: &[v1::IdMapping]) -> Result<LinuxIdMapping> {
    let refuse = |why: &str| Err(Error::invalid(format!("userns_options.{field}: {why}")));
    match list {
        [] => refuse("mode POD needs a mapping"),
        [range] if range.container_id != 0 => refuse("the id 0 is not mapped"),
        [range] => super::mounts::id_mapping(&format!("userns_options.{field}"), range),
        _ => refuse("more than one mapping is not supported"),
    }
}
