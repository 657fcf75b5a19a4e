//! What `--version` says, in the manner of runc and crun: engines look for the line `spec:`.

macro_rules! text {
    ($linked:literal) => {
        concat!(
            env!("CARGO_PKG_VERSION"),
            "\ncommit: ",
            env!("CORACLE_COMMIT"),
            "\nspec: 1.2.1\nfeatures: +CGROUP_V1 +CGROUP_V2 +SYSTEMD +SECCOMP +APPARMOR +SELINUX +CRI ",
            $linked
        )
    };
}

/// Version, commit, the version of the OCI runtime specification, features.
pub(super) const TEXT: &str =
    if cfg!(target_feature = "crt-static") { text!("+STATIC") } else { text!("-STATIC") };
