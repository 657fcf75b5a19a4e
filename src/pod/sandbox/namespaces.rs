//! The namespaces that a pod pins as files: network, IPC, UTS, and the user namespace that owns them.

use std::collections::BTreeMap;
use std::path::Path;

use oci_spec::runtime::{LinuxNamespace, LinuxNamespaceType};

use crate::error::{Doing, Result};
use crate::linux::id_map::IdMaps;
use crate::net::namespace;
use crate::pod::records::Directory;
use crate::pod::request_from_cri::{SandboxRequest, sysctl_path};
use crate::spec;
use crate::spec::request::{NamespaceScopes, Scope};

/// Creates and pins the namespaces that a pod does not share with the host.
///
/// # Errors
/// They cannot be created, or the kernel refuses a sysctl; nothing stays pinned then.
pub(super) fn make(request: &SandboxRequest, directory: &Directory) -> Result<()> {
    let own = &request.namespaces;
    let mut kinds = Vec::new();
    if own.network == Scope::Pod {
        kinds.extend([
            (libc::CLONE_NEWNET, directory.join("net")),
            (libc::CLONE_NEWUTS, directory.join("uts")),
        ]);
    }
    if own.ipc == Scope::Pod {
        kinds.push((libc::CLONE_NEWIPC, directory.join("ipc")));
    }
    let set_up = || set_up(request.hostname.as_deref(), &request.sysctls);
    let maps = own.user.as_ref().map(|user| IdMaps::new(&user.uids, &user.gids));
    if let Some(maps) = maps {
        kinds.push((libc::CLONE_NEWUSER, directory.join("user")));
        let kinds: Vec<_> = kinds.iter().map(|(kind, path)| (*kind, path.as_path())).collect();
        return namespace::create_owned(&kinds, &maps, set_up);
    }
    let kinds: Vec<_> = kinds.iter().map(|(kind, path)| (*kind, path.as_path())).collect();
    if kinds.is_empty() { Ok(()) } else { namespace::create(&kinds, set_up) }
}

/// Sets the host name and sysctls. Runs in a thread inside the namespaces, where /proc/sys shows their parameters.
fn set_up(hostname: Option<&str>, sysctls: &BTreeMap<String, String>) -> Result<()> {
    if let Some(hostname) = hostname {
        nix::unistd::sethostname(hostname).doing(|| format!("set the host name {hostname:?}"))?;
    }
    for (key, value) in sysctls {
        let path = Path::new("/proc/sys").join(sysctl_path(key));
        std::fs::write(&path, value).doing(|| format!("set the kernel parameter {key} to {value:?}"))?;
    }
    Ok(())
}

/// The pinned namespaces that the processes of a pod join.
pub(in crate::pod) fn shared_namespaces(
    own: &NamespaceScopes,
    pod: &Directory,
) -> impl Iterator<Item = LinuxNamespace> {
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
        .map(move |(kind, name, _)| spec::namespace(kind, Some(pod.join(name))))
}
