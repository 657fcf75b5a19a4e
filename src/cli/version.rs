//! The text of `--version`, in the format of runc and crun: engines look for the line `spec:`.

macro_rules! text {
    ($($feature:literal)*) => {
        concat!(
            env!("CARGO_PKG_VERSION"),
            "\ncommit: ",
            env!("CORACLE_COMMIT"),
            "\nspec: 1.2.1\nfeatures: +CGROUP_V1 +CGROUP_V2 +SYSTEMD +SECCOMP +APPARMOR +SELINUX",
            $(" ", $feature),*
        )
    };
}

/// Version, commit, the version of the OCI runtime specification, features.
pub(super) const TEXT: &str = match (cfg!(feature = "node"), cfg!(target_feature = "crt-static")) {
    (true, true) => text!("+CRI" "+STATIC"),
    (true, false) => text!("+CRI" "-STATIC"),
    (false, true) => text!("-CRI" "+STATIC"),
    (false, false) => text!("-CRI" "-STATIC"),
};
