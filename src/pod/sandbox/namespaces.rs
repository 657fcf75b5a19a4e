//! The namespaces of a pod that live without a process: network, IPC, UTS, and the user namespace that owns them.

use std::collections::BTreeMap;
use std::path::Path;

use crate::error::{Doing, Result};
use crate::linux::id_map::IdMaps;
use crate::net::namespace;
use crate::pod::records::Directory;
use crate::pod::request_from_cri::{SandboxRequest, sysctl_path};
use crate::spec::request::Scope;

/// Makes and pins them.
///
/// # Errors
/// They cannot be made, or a kernel parameter is refused; nothing stays pinned then.
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

/// What is done inside: a thread in the namespaces sees their parameters below /proc/sys.
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
