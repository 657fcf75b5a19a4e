//! `Version` and `Status`: the runtime's version, its readiness, and the features of this kernel.

use std::collections::BTreeMap;
use std::path::Path;

use coracle_cri::v1;
use rustix::io::Errno;
use serde_json::json;

use super::config::Config;
use crate::image::rootfs::mount_mapped;
use crate::keeper::client::Client;
use crate::linux::id_map::IdMaps;
use crate::linux::private;
use crate::net::cni::Cni;
use crate::pod::one_line;
use crate::sys::mount::{MountAttr, mount_setattr_path};

/// Features of the kernel, probed once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kernel {
    /// A mount can be made read-only together with those below it (mount_setattr(2), 5.12).
    recursive_read_only: bool,
    /// The layers of this store can be mounted with mapped ids for user namespaces (idmapped overlayfs, 5.19).
    user_namespaces: bool,
}

impl Kernel {
    pub(super) fn probe(store: &Path) -> Self {
        // The path does not exist, so nothing changes; a kernel that has the call answers ENOENT.
        let result = mount_setattr_path(c"/proc/self/no-such-entry", true, &MountAttr::default());
        let has_mount_setattr = !matches!(result, Err(Errno::NOSYS | Errno::PERM));
        Self { recursive_read_only: has_mount_setattr, user_namespaces: maps_ids(store) }
    }
}

/// Probes idmapped overlay mounts by mounting one.
pub(crate) fn maps_ids(store: &Path) -> bool {
    let probe = store.join("probe");
    let lower = probe.join("lower");
    let ids = "0 100000 65536\n".to_owned();
    let maps = IdMaps { uid: ids.clone(), gid: ids };
    let mounted = private::make_dirs(&lower, private::DIR).is_ok()
        && mount_mapped(&[lower], &probe, &maps, (100_000, 100_000)).is_ok();
    // Left-over directories are harmless and are reused by the next probe.
    let _ = std::fs::remove_dir_all(&probe);
    mounted
}

pub(super) fn version() -> v1::VersionResponse {
    v1::VersionResponse {
        version: "0.1.0".to_owned(),
        runtime_name: "coracle".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: "v1".to_owned(),
    }
}

pub(super) fn status(config: &Config, cni: &Cni, kernel: Kernel, verbose: bool) -> v1::StatusResponse {
    // Restarts a keeper that is gone: otherwise nothing would before the next pod.
    let keeper = Client::connect_or_start(&config.run).map(drop);
    let conditions = vec![
        condition("RuntimeReady", "KeeperNotReady", keeper),
        condition("NetworkReady", "NetworkPluginNotReady", cni.status()),
    ];
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions }),
        info: if verbose { info(config) } else { BTreeMap::new() },
        runtime_handlers: handlers(config, kernel),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
        }),
    }
}

fn condition(name: &str, reason: &str, state: crate::error::Result<()>) -> v1::RuntimeCondition {
    match state {
        Ok(()) => v1::RuntimeCondition { r#type: name.to_owned(), status: true, ..Default::default() },
        Err(error) => v1::RuntimeCondition {
            r#type: name.to_owned(),
            status: false,
            reason: reason.to_owned(),
            message: one_line(&error),
        },
    }
}

/// An entry for each handler, and one for the default.
fn handlers(config: &Config, kernel: Kernel) -> Vec<v1::RuntimeHandler> {
    let features = v1::RuntimeHandlerFeatures {
        recursive_read_only_mounts: kernel.recursive_read_only,
        user_namespaces: kernel.user_namespaces,
    };
    let names = std::iter::once("").chain(config.handlers.keys().map(String::as_str));
    names.map(|name| v1::RuntimeHandler { name: name.to_owned(), features: Some(features) }).collect()
}

fn info(config: &Config) -> BTreeMap<String, String> {
    // The Kubernetes end-to-end tests read the directory of pods' files from here.
    let mut shown = json!(config);
    shown["stateDir"] = json!(config.run);
    shown["rootDir"] = json!(config.store);
    BTreeMap::from([("config".to_owned(), shown.to_string())])
}
