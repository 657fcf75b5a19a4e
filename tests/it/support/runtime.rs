//! Which runtime the OCI tests run against: ours, or a known one that shows whether the tests themselves are right.

use std::path::PathBuf;
use std::sync::LazyLock;

/// A runtime with runc's command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// The program of this workspace; see `programs.rs` for which build.
    Ours,
    /// That without the feature `node`, at `$CORACLE_OCI`.
    OursAlone,
    /// runc, found as `$RUNC` or on the path.
    Runc,
    /// crun, found as `$CRUN` or on the path.
    Crun,
}

/// What `RUNTIME_UNDER_TEST` names: `ours` (the default), `oci`, `runc` or `crun`.
pub(crate) fn runtime_under_test() -> &'static Runtime {
    static CHOSEN: LazyLock<Runtime> =
        LazyLock::new(|| match std::env::var("RUNTIME_UNDER_TEST").as_deref() {
            Err(_) | Ok("ours" | "") => Runtime::Ours,
            Ok("oci") => Runtime::OursAlone,
            Ok("runc") => Runtime::Runc,
            Ok("crun") => Runtime::Crun,
            Ok(other) => panic!("RUNTIME_UNDER_TEST={other}: must be ours, oci, runc or crun"),
        });
    &CHOSEN
}

impl Runtime {
    /// The program to run.
    pub(crate) fn program(&self) -> PathBuf {
        let named =
            |variable, name: &str| std::env::var_os(variable).map_or_else(|| name.into(), PathBuf::from);
        match self {
            Self::Ours => super::coracle_program().to_owned(),
            Self::OursAlone => named("CORACLE_OCI", "coracle"),
            Self::Runc => named("RUNC", "runc"),
            Self::Crun => named("CRUN", "crun"),
        }
    }

    /// Whether this is the runtime of this workspace, for the few places where it promises more than its peers.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours | Self::OursAlone)
    }
}
