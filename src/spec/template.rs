//! The configuration that `coracle spec` writes as a starting point.

use oci_spec::runtime::{
    Capability, LinuxIdMapping, LinuxIdMappingBuilder, LinuxNamespaceType, PosixRlimitBuilder,
    PosixRlimitType, Spec,
};

use super::request::{Capabilities, ContainerRequest, ProcessRequest};
use super::user::ResolvedUser;
use super::{Resolved, build, defaults, namespace};
use crate::error::{Error, Result};

/// A shell in a read-only `rootfs` with few rights, as runc's `spec`; everything else as in [`defaults`].
///
/// # Errors
/// None in practice, because the request is complete.
pub fn spec() -> Result<Spec> {
    build(&shell(false)?, &found(&defaults::NAMESPACES))
}

/// The same for a user without privileges: it maps one id, and has no network namespace, limits or group for
/// terminals, which only root can have.
///
/// # Errors
/// As [`spec`].
pub fn rootless() -> Result<Spec> {
    let own: Vec<_> = defaults::NAMESPACES
        .into_iter()
        .filter(|kind| *kind != LinuxNamespaceType::Network)
        .chain([LinuxNamespaceType::User])
        .collect();
    let mut spec = build(&shell(true)?, &found(&own))?;
    if let Some(linux) = spec.linux_mut() {
        linux.set_resources(None);
        linux.set_uid_mappings(Some(vec![only(rustix::process::geteuid().as_raw())?]));
        linux.set_gid_mappings(Some(vec![only(rustix::process::getegid().as_raw())?]));
    }
    for options in spec.mounts_mut().iter_mut().flatten().filter_map(|mount| mount.options_mut().as_mut()) {
        options.retain(|option| !option.starts_with("gid="));
    }
    Ok(spec)
}

fn shell(bind_sys: bool) -> Result<ContainerRequest> {
    let open_files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(1024_u64)
        .hard(1024_u64)
        .build()
        .map_err(|e| Error::invalid("limit open files").because(e))?;
    Ok(ContainerRequest {
        process: ProcessRequest {
            entrypoint: Some(vec!["sh".to_owned()]),
            terminal: true,
            no_new_privileges: true,
            rlimits: vec![open_files],
            ..ProcessRequest::default()
        },
        hostname: Some("coracle".to_owned()),
        read_only_root: true,
        bind_sys,
        capabilities: Capabilities {
            drop_all: true,
            add: vec![Capability::AuditWrite, Capability::Kill, Capability::NetBindService],
            ..Capabilities::default()
        },
        masked_paths: defaults::masked_paths(),
        readonly_paths: defaults::readonly_paths(),
        ..ContainerRequest::default()
    })
}

fn found(namespaces: &[LinuxNamespaceType]) -> Resolved {
    Resolved {
        root: "rootfs".into(),
        user: ResolvedUser { home: None, groups: Vec::new(), ..ResolvedUser::default() },
        namespaces: namespaces.iter().map(|kind| namespace(*kind, None)).collect(),
        ..Resolved::default()
    }
}

/// Maps root to this id.
fn only(id: u32) -> Result<LinuxIdMapping> {
    let mapping = LinuxIdMappingBuilder::default().container_id(0_u32).host_id(id).size(1_u32).build();
    mapping.map_err(|e| Error::invalid("map an id").because(e))
}
