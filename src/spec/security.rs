//! Capabilities and seccomp profiles of a process.

use std::collections::HashSet;
use std::path::Path;

use oci_spec::runtime::{Capability, LinuxCapabilities, LinuxSeccomp};

use super::defaults;
use super::request::{Capabilities, ContainerRequest, Profile};
use crate::error::{Doing, Error, Result};
use crate::linux::private;

/// The greatest size of a seccomp profile, in bytes.
const MAX_PROFILE: u64 = 4 << 20;

/// Parses the name of a capability, with or without CAP_.
///
/// # Errors
/// `Invalid` for an unknown name.
pub fn capability(name: &str) -> Result<Capability> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("CAP_").unwrap_or(&upper);
    bare.parse().map_err(|_| {
        Error::invalid(format!("there is no capability {name:?}"))
            .hint("see capabilities(7); ALL stands for all")
    })
}

impl Capabilities {
    /// Parses lists of names, in which `ALL` means every capability.
    ///
    /// # Errors
    /// `Invalid` for an unknown name, and for an ambient `ALL`.
    pub fn parse(add: &[String], drop: &[String], ambient: &[String]) -> Result<Self> {
        let is_all = |name: &String| name.eq_ignore_ascii_case("all");
        let named = |list: &[String]| -> Result<Vec<_>> {
            list.iter().filter(|name| !is_all(name)).map(|name| capability(name)).collect()
        };
        if ambient.iter().any(is_all) {
            return Err(Error::invalid("ambient capabilities are named one by one: ALL is none"));
        }
        Ok(Self {
            add_all: add.iter().any(is_all),
            drop_all: drop.iter().any(is_all),
            add: named(add)?,
            drop: named(drop)?,
            ambient: named(ambient)?,
        })
    }
}

/// All capabilities that this program and the specification know.
fn every() -> HashSet<Capability> {
    caps::all().into_iter().filter_map(|known| capability(&known.to_string()).ok()).collect()
}

/// The capabilities that a container gets: its bounding set.
pub fn granted(request: &ContainerRequest) -> HashSet<Capability> {
    let Capabilities { add_all, drop_all, add, drop, ambient } = &request.capabilities;
    let known = every();
    let mut all = if request.privileged || *add_all { known.clone() } else { defaults::CAPABILITIES.into() };
    if *drop_all {
        all.clear();
    }
    all.extend(add.iter().chain(ambient));
    all.retain(|capability| !drop.contains(capability) && known.contains(capability));
    all
}

/// The five capability sets. A process that is not root keeps only the ambient capabilities through execve(2), so the
/// others are not put in its sets. The inheritable set equals the ambient one: other inheritable capabilities would
/// let a program with file capabilities gain what its user does not have (CVE-2022-24769).
pub(super) fn capability_sets(request: &ContainerRequest, is_root: bool) -> LinuxCapabilities {
    let granted = granted(request);
    let ambient: HashSet<Capability> =
        request.capabilities.ambient.iter().filter(|own| granted.contains(own)).copied().collect();
    let active = if is_root { granted.clone() } else { ambient.clone() };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(granted))
        .set_effective(Some(active.clone()))
        .set_permitted(Some(active))
        .set_inheritable(Some(ambient.clone()))
        .set_ambient(Some(ambient));
    sets
}

/// The seccomp profile of a container: the default for its capabilities, one from a file, or none. A privileged
/// container has none but one that is named, as with docker.
///
/// # Errors
/// The file cannot be read or parsed.
pub fn seccomp(request: &ContainerRequest) -> Result<Option<LinuxSeccomp>> {
    match &request.seccomp {
        Profile::Unconfined => Ok(None),
        Profile::RuntimeDefault if request.privileged => Ok(None),
        Profile::RuntimeDefault => Ok(Some(crate::seccomp::default_profile(&granted(request)))),
        Profile::Localhost(path) => read_profile(path).map(Some),
    }
}

/// Parses a profile in the form of the runtime specification, or in docker's as far as both are the same.
fn read_profile(path: &str) -> Result<LinuxSeccomp> {
    let text = private::read_named(Path::new(path), MAX_PROFILE)
        .doing(|| format!("read the seccomp profile {path}"))?;
    serde_json::from_slice(&text).doing(|| format!("parse the seccomp profile {path}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(add: &[&str], drop: &[&str], ambient: &[&str]) -> Result<ContainerRequest> {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let capabilities = Capabilities::parse(&list(add), &list(drop), &list(ambient))?;
        Ok(ContainerRequest { capabilities, ..ContainerRequest::default() })
    }

    fn of(add: &[&str], drop: &[&str]) -> HashSet<Capability> {
        granted(&request(add, drop, &[]).unwrap())
    }

    #[test]
    fn capabilities_are_added_to_and_dropped_from_the_default() {
        let set = of(&["net_admin"], &["CAP_MKNOD"]);
        assert!(set.contains(&Capability::NetAdmin) && !set.contains(&Capability::Mknod) && set.len() == 14);
        assert_eq!(of(&["kill"], &["ALL"]), [Capability::Kill].into());
        assert_eq!(of(&["ALL"], &[]).len(), caps::all().len(), "each has a name in the specification");
        assert!(request(&["flying"], &[], &[]).is_err());
        assert!(request(&[], &[], &["all"]).is_err());
    }

    #[test]
    fn a_user_that_is_not_root_has_the_ambient_ones() {
        let request = request(&[], &[], &["NET_RAW"]).unwrap();
        let (root, other) = (capability_sets(&request, true), capability_sets(&request, false));
        assert_eq!(root.effective(), root.bounding());
        assert_eq!(other.bounding(), root.bounding());
        for sets in [&root, &other] {
            assert_eq!(sets.ambient(), &Some([Capability::NetRaw].into()));
            assert_eq!(sets.inheritable(), sets.ambient());
        }
        assert_eq!((other.effective(), other.permitted()), (other.ambient(), other.ambient()));
    }

    #[test]
    fn a_privileged_container_has_every_capability_and_no_profile_but_one_that_is_named() {
        let of = |seccomp| ContainerRequest { privileged: true, seccomp, ..ContainerRequest::default() };
        let request = of(Profile::RuntimeDefault);
        assert_eq!(granted(&request), every());
        assert_eq!(seccomp(&request).unwrap(), None);
        assert_eq!(seccomp(&of(Profile::Unconfined)).unwrap(), None);
        assert!(seccomp(&of(Profile::Localhost("/no/such/file".to_owned()))).is_err());
    }

    proptest! {
        /// No dropped capability is in any set, and ambient ones are in all.
        #[test]
        fn dropped_capabilities_are_gone(
            add in proptest::sample::subsequence(vec!["CHOWN", "KILL", "NET_RAW", "ALL"], 0..4),
            drop in proptest::sample::subsequence(vec!["CHOWN", "KILL", "SYS_ADMIN"], 0..3),
            ambient in proptest::sample::subsequence(vec!["KILL", "NET_RAW"], 0..2),
        ) {
            let request = request(&add, &drop, &ambient).unwrap();
            for is_root in [true, false] {
                let sets = capability_sets(&request, is_root);
                let (all, own) = (sets.bounding().clone().unwrap(), sets.ambient().clone().unwrap());
                let asked = &request.capabilities;
                prop_assert!(asked.drop.iter().all(|c| !all.contains(c)));
                prop_assert!(own.is_subset(&all) && own.is_subset(sets.permitted().as_ref().unwrap()));
                prop_assert!(asked.ambient.iter().all(|c| asked.drop.contains(c) || own.contains(c)));
            }
        }
    }
}
