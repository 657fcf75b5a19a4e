//! `coracle features`

use std::process::ExitCode;

use serde_json::json;

use super::{Context, report};
use crate::error::{Doing, Result};
use crate::launch::MOUNT_OPTIONS;

/// Print what this runtime can do, as JSON
#[derive(Debug, clap::Args)]
pub(super) struct FeaturesArgs {}

/// Runs `coracle features`. SPEC(runtime 1.2 features.md)
pub(super) fn run(_context: &Context, _args: &FeaturesArgs) -> Result<ExitCode> {
    let capabilities: Vec<String> = {
        let mut all: Vec<_> = caps::all().into_iter().collect();
        all.sort_by_key(caps::Capability::index);
        all.iter().map(ToString::to_string).collect()
    };
    let features = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": crate::record::OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": MOUNT_OPTIONS,
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": capabilities,
            "cgroup": { "v1": true, "v2": true, "systemd": true, "systemdUser": false, "rdma": true },
            "seccomp": {
                "enabled": true,
                "actions": crate::seccomp::actions(),
                "operators": crate::seccomp::operators(),
                "archs": crate::seccomp::architectures(),
                "knownFlags": crate::seccomp::flags(),
                "supportedFlags": crate::seccomp::flags(),
            },
            "apparmor": { "enabled": true },
            "selinux": { "enabled": true },
            "intelRdt": { "enabled": false },
            "memoryPolicy": null,
            "mountExtensions": { "idmap": { "enabled": true } },
            "netDevices": { "enabled": false },
        },
        "annotations": { "io.github.coracle.version": env!("CARGO_PKG_VERSION") },
        "potentiallyUnsafeConfigAnnotations": [],
    });
    let text = serde_json::to_string_pretty(&features).doing(|| "write the features")?;
    report::print(&format!("{text}\n"))?;
    Ok(ExitCode::SUCCESS)
}
