//! The security context: capabilities, seccomp, AppArmor, SELinux, masked paths.

use std::path::PathBuf;

use super::absolute;
use coracle_cri::v1;

use crate::error::{Error, Result};
use crate::spec::request::{Capabilities, Profile};

/// The capabilities added to and dropped from the default ones. The CRI adds them to all sets; the builder leaves out the
/// inheritable set (CVE-2022-24769).
pub(super) fn capabilities(lists: Option<&v1::Capability>) -> Result<Capabilities> {
    let lists = lists.cloned().unwrap_or_default();
    Capabilities::parse(&lists.add_capabilities, &lists.drop_capabilities, &lists.add_ambient_capabilities)
}

/// The seccomp and AppArmor profiles of a container; none for a privileged container, whatever profiles it names. On a node
/// without AppArmor the default profile is skipped, but a named profile is an error.
#[expect(deprecated, reason = "older clients set only the strings")]
pub(super) fn profiles(context: &v1::LinuxContainerSecurityContext) -> Result<(Profile, Profile)> {
    let seccomp = seccomp(context.seccomp.as_ref(), &context.seccomp_profile_path)?;
    let apparmor = apparmor(context.apparmor.as_ref(), &context.apparmor_profile)?;
    match context.privileged {
        true => Ok((Profile::Unconfined, Profile::Unconfined)),
        false => Ok((seccomp, apparmor)),
    }
}

/// Checks the security context of a pod.
#[expect(deprecated, reason = "older clients set only the strings")]
pub(super) fn check_sandbox(context: &v1::LinuxSandboxSecurityContext) -> Result<()> {
    seccomp(context.seccomp.as_ref(), &context.seccomp_profile_path)?;
    apparmor(context.apparmor.as_ref(), "").map(drop)
}

/// The field takes precedence over the deprecated string; with neither there is no seccomp.
fn seccomp(field: Option<&v1::SecurityProfile>, deprecated: &str) -> Result<Profile> {
    let profile = match field {
        Some(field) => of_field("seccomp", field)?,
        None if deprecated.is_empty() => Profile::Unconfined,
        None => of_text("seccomp_profile_path", deprecated)?,
    };
    if let Profile::Localhost(path) = &profile {
        absolute("the seccomp profile", path)?;
    }
    Ok(profile)
}

/// The field takes precedence over the deprecated string; with neither the runtime's default applies.
fn apparmor(field: Option<&v1::SecurityProfile>, deprecated: &str) -> Result<Profile> {
    match field {
        Some(field) => of_field("apparmor", field),
        None if deprecated.is_empty() => Ok(Profile::RuntimeDefault),
        None => of_text("apparmor_profile", deprecated),
    }
}

fn of_field(name: &str, profile: &v1::SecurityProfile) -> Result<Profile> {
    use v1::security_profile::ProfileType;
    let reference = profile.localhost_ref.trim_start_matches("localhost/");
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::Localhost) if reference.is_empty() => {
            Err(Error::invalid(format!("{name}: type Localhost without a localhost_ref")))
        }
        Ok(ProfileType::Localhost) => Ok(Profile::Localhost(reference.to_owned())),
        Ok(_) if !reference.is_empty() => {
            Err(Error::invalid(format!("{name}: a localhost_ref goes with type Localhost only")))
        }
        Ok(ProfileType::RuntimeDefault) => Ok(Profile::RuntimeDefault),
        Ok(ProfileType::Unconfined) => Ok(Profile::Unconfined),
        Err(_) => Err(Error::invalid(format!("{name}: there is no profile type {}", profile.profile_type))),
    }
}

fn of_text(field: &str, text: &str) -> Result<Profile> {
    match text {
        "runtime/default" | "docker/default" => Ok(Profile::RuntimeDefault),
        "unconfined" => Ok(Profile::Unconfined),
        _ => match text.strip_prefix("localhost/") {
            Some(name) if !name.is_empty() => Ok(Profile::Localhost(name.to_owned())),
            _ => Err(Error::invalid(format!(
                "{field} {text:?} is neither runtime/default nor unconfined nor localhost/..."
            ))),
        },
    }
}

/// The SELinux label from kubelet, with defaults as in container-selinux; none when kubelet sends no part of one.
pub(super) fn selinux_label(options: Option<&v1::SeLinuxOption>) -> Option<String> {
    let v1::SeLinuxOption { user, role, r#type, level } = options?;
    let parts = [(user, "system_u"), (role, "system_r"), (r#type, "container_t"), (level, "s0")];
    let is_named = parts.iter().any(|(named, _)| !named.is_empty());
    let completed = parts.map(|(named, usual)| if named.is_empty() { usual } else { named.as_str() });
    is_named.then(|| completed.join(":"))
}

/// Masked or read-only paths; none for a privileged container.
pub(super) fn paths(field: &str, paths: &[String], privileged: bool) -> Result<Vec<PathBuf>> {
    let all = paths.iter().map(|path| absolute(field, path)).collect::<Result<Vec<_>>>()?;
    Ok(if privileged { Vec::new() } else { all })
}
