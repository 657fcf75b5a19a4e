//! What a process may do: capabilities, seccomp, AppArmor, SELinux, hidden paths.

use std::collections::HashSet;
use std::path::PathBuf;

use oci_spec::runtime::{Capability, LinuxCapabilities};

use super::absolute;
use crate::error::{Error, Result};
use crate::v1;

/// What is added to and taken from the runtime's default set. The named ones come after `all`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Capabilities {
    /// Whether the container is privileged: it has every capability, and the lists do not count.
    pub privileged: bool,
    /// Whether every capability is added.
    pub add_all: bool,
    /// Whether every capability is dropped.
    pub drop_all: bool,
    /// Added.
    pub add: Vec<Capability>,
    /// Dropped, from all sets.
    pub drop: Vec<Capability>,
    /// Added, and kept by a program that is not root's.
    pub ambient: Vec<Capability>,
}

impl Capabilities {
    pub(super) fn of(lists: Option<&v1::Capability>, privileged: bool) -> Result<Self> {
        let lists = lists.cloned().unwrap_or_default();
        let is_all = |name: &String| name.eq_ignore_ascii_case("all");
        let named = |list: &[String]| -> Result<Vec<_>> {
            list.iter().filter(|n| !is_all(n)).map(|n| capability(n)).collect()
        };
        if lists.add_ambient_capabilities.iter().any(is_all) {
            return Err(Error::invalid("add_ambient_capabilities names each capability: ALL is none"));
        }
        Ok(Self {
            privileged,
            add_all: lists.add_capabilities.iter().any(is_all),
            drop_all: lists.drop_capabilities.iter().any(is_all),
            add: named(&lists.add_capabilities)?,
            drop: named(&lists.drop_capabilities)?,
            ambient: named(&lists.add_ambient_capabilities)?,
        })
    }

    /// The sets, given the runtime's default and all that the kernel knows. Inheritable ones are only those that are
    /// ambient too: others would let a program with file capabilities have what its user was not given
    /// (CVE-2022-24769), although the CRI's text puts added ones in all sets.
    pub fn sets(&self, default: &HashSet<Capability>, known: &HashSet<Capability>) -> LinuxCapabilities {
        let (all, ambient) = if self.privileged {
            (known.clone(), HashSet::new())
        } else {
            let mut all = if self.add_all { known } else { default }.clone();
            if self.drop_all {
                all.clear();
            }
            all.extend(self.add.iter().chain(&self.ambient));
            all.retain(|c| !self.drop.contains(c) && known.contains(c));
            let ambient = self.ambient.iter().filter(|c| all.contains(c)).copied().collect();
            (all, ambient)
        };
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(all.clone()))
            .set_effective(Some(all.clone()))
            .set_permitted(Some(all))
            .set_inheritable(Some(ambient.clone()))
            .set_ambient(Some(ambient));
        sets
    }
}

/// A capability by name, with or without CAP_.
fn capability(name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    bare.parse().map_err(|_| Error::invalid(format!("there is no capability {name:?}")))
}

/// A profile of seccomp or AppArmor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// The runtime's own.
    RuntimeDefault,
    /// None.
    Unconfined,
    /// One of the node's: for seccomp the absolute path of a file, for AppArmor the name of a loaded profile.
    Localhost(String),
}

/// An SELinux label's parts; an empty one is left to the policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelinuxLabel {
    /// User.
    pub user: String,
    /// Role.
    pub role: String,
    /// Type.
    pub typ: String,
    /// Level.
    pub level: String,
}

/// The profiles a process is confined by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// seccomp(2)
    pub seccomp: Profile,
    /// apparmor(7). The default one is not asked of a node without AppArmor; one that is named is.
    pub apparmor: Profile,
    /// SELinux; none for a label of the policy's choice.
    pub selinux: Option<SelinuxLabel>,
}

#[expect(deprecated, reason = "older clients set only the strings")]
impl Confinement {
    pub(super) fn of_sandbox(context: &v1::LinuxSandboxSecurityContext) -> Result<Self> {
        let seccomp = seccomp(context.seccomp.as_ref(), &context.seccomp_profile_path)?;
        let apparmor = apparmor(context.apparmor.as_ref(), "")?;
        let selinux = selinux(context.selinux_options.as_ref());
        Ok(Self { seccomp, apparmor, selinux }.unless(context.privileged))
    }

    pub(super) fn of_container(context: &v1::LinuxContainerSecurityContext) -> Result<Self> {
        let seccomp = seccomp(context.seccomp.as_ref(), &context.seccomp_profile_path)?;
        let apparmor = apparmor(context.apparmor.as_ref(), &context.apparmor_profile)?;
        let selinux = selinux(context.selinux_options.as_ref());
        Ok(Self { seccomp, apparmor, selinux }.unless(context.privileged))
    }

    /// A privileged container is confined by neither seccomp nor AppArmor, whatever its profiles say.
    fn unless(self, privileged: bool) -> Self {
        if privileged {
            return Self { seccomp: Profile::Unconfined, apparmor: Profile::Unconfined, ..self };
        }
        self
    }
}

/// The field wins over the string that came before it; with neither there is no seccomp.
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

/// The field wins over the string that came before it; with neither it is the runtime's default.
fn apparmor(field: Option<&v1::SecurityProfile>, deprecated: &str) -> Result<Profile> {
    match field {
        Some(field) => of_field("apparmor", field),
        None if deprecated.is_empty() => Ok(Profile::RuntimeDefault),
        None => of_text("apparmor_profile", deprecated),
    }
}

fn of_field(name: &str, profile: &v1::SecurityProfile) -> Result<Profile> {
    use v1::security_profile::ProfileType;
    let given = profile.localhost_ref.trim_start_matches("localhost/");
    match ProfileType::try_from(profile.profile_type) {
        Ok(ProfileType::Localhost) if given.is_empty() => {
            Err(Error::invalid(format!("{name}: type Localhost without a localhost_ref")))
        }
        Ok(ProfileType::Localhost) => Ok(Profile::Localhost(given.to_owned())),
        Ok(_) if !given.is_empty() => {
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

fn selinux(options: Option<&v1::SeLinuxOption>) -> Option<SelinuxLabel> {
    let v1::SeLinuxOption { user, role, r#type, level } = options?.clone();
    let label = SelinuxLabel { user, role, typ: r#type, level };
    let is_set = [&label.user, &label.role, &label.typ, &label.level].iter().any(|part| !part.is_empty());
    is_set.then_some(label)
}

/// Masked or read-only paths. A privileged container sees everything.
pub(super) fn hidden(field: &str, paths: &[String], privileged: bool) -> Result<Vec<PathBuf>> {
    let all = paths.iter().map(|path| absolute(field, path)).collect::<Result<Vec<_>>>()?;
    Ok(if privileged { Vec::new() } else { all })
}
