//! Which namespaces are created, which are joined, and in which order.
//!
//! clone3 creates most namespaces. The child unshares two kinds: a cgroup namespace (clone would root it at the
//! parent's cgroup) and a time namespace (clone would freeze its offsets). The child joins namespaces itself, except
//! for the PID namespace, which only a new child can be in, and except when the user namespace is new: inside it, the
//! child has no rights over namespaces that the host owns. The parent enters those before the clone and leaves them
//! after it.
//!
//! A joined PID namespace contains other processes, which could stop or trace a process that still holds resources of
//! the host. So the child enters it last, by a fork, when it holds nothing of the host any more.

use oci_spec::runtime::{Linux, LinuxNamespaceType};
use serde::{Deserialize, Serialize};

use super::opens::{Open, Opens};
use super::steps::Step;
use crate::error::{Error, Kind, Result};
use crate::linux::id_map::IdMaps;

/// The namespace part of a plan.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Namespaces {
    /// `CLONE_NEW*` for clone3.
    pub clone_flags: i32,
    /// The namespaces the parent enters around the clone: slot and `CLONE_NEW*`.
    pub parent_joins: Vec<(super::steps::Slot, i32)>,
    /// How a joined PID namespace is entered: the step before the process forks into it.
    #[serde(skip)]
    pub joined_pid: Option<Step>,
    /// The slot of a joined user namespace that has to own the new namespaces. Only a parent that exits after the
    /// clone can enter it first, because a process cannot return from it.
    pub owner: Option<super::steps::Slot>,
    /// `CLONE_NEW*` of all namespaces that are not the host's, created or joined.
    pub private: i32,
    /// `CLONE_NEW*` of all namespaces that are created.
    pub new: i32,
    /// The id maps to write when the user namespace is new.
    #[serde(skip)]
    pub maps: Option<IdMaps>,
}

/// The `CLONE_NEW*` flag of a namespace type.
pub fn clone_flag(kind: LinuxNamespaceType) -> i32 {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => CLONE_NEWTIME,
    }
}

/// `CLONE_NEWTIME`; missing from libc on some targets.
pub const CLONE_NEWTIME: i32 = 0x80;

impl Namespaces {
    /// Sorts `linux.namespaces` into those to create and those to join; pushes the steps that join and unshare.
    ///
    /// # Errors
    /// `Invalid` for a type that is listed twice, and for id maps without a user namespace or the reverse.
    pub fn plan(linux: &Linux, opens: &mut Opens, steps: &mut Vec<Step>) -> Result<Self> {
        let mut this = Self::default();
        let mut joins = Vec::new();
        for namespace in linux.namespaces().iter().flatten() {
            let kind = clone_flag(namespace.typ());
            if this.private & kind != 0 {
                return Err(Error::invalid(format!("linux.namespaces: {} is listed twice", namespace.typ())));
            }
            this.private |= kind;
            match namespace.path().as_ref().filter(|p| !p.as_os_str().is_empty()) {
                None => this.new |= kind,
                Some(path) => {
                    if !path.is_absolute() {
                        return Err(Error::invalid(format!(
                            "linux.namespaces: path {path:?} is not absolute"
                        )));
                    }
                    let slot = opens.push(Open::Namespace { path: path.clone(), kind });
                    joins.push((slot, kind, path.display().to_string()));
                }
            }
        }
        this.clone_flags = this.new & !(libc::CLONE_NEWCGROUP | CLONE_NEWTIME);
        this.check_maps(linux)?;
        this.place_joins(joins, steps);
        Ok(this)
    }

    /// Whether a user namespace is created or joined.
    pub fn has_user(&self) -> bool {
        self.private & libc::CLONE_NEWUSER != 0
    }

    fn check_maps(&mut self, linux: &Linux) -> Result<()> {
        let uid = linux.uid_mappings().as_deref().unwrap_or_default();
        let gid = linux.gid_mappings().as_deref().unwrap_or_default();
        let new_user = self.new & libc::CLONE_NEWUSER != 0;
        if new_user && (uid.is_empty() || gid.is_empty()) {
            return Err(Error::invalid("linux.namespaces: a new user namespace without id mappings")
                .hint("set linux.uidMappings and linux.gidMappings"));
        }
        let mapped = !uid.is_empty() || !gid.is_empty();
        if mapped && !self.has_user() {
            return Err(Error::invalid("linux.uidMappings: id mappings without a user namespace")
                .hint("add {\"type\": \"user\"} to linux.namespaces"));
        }
        crate::linux::id_map::check("linux.uidMappings", uid)?;
        crate::linux::id_map::check("linux.gidMappings", gid)?;
        if new_user {
            self.maps = Some(IdMaps::new(uid, gid));
        }
        if linux.time_offsets().as_ref().is_some_and(|o| !o.is_empty()) && self.new & CLONE_NEWTIME == 0 {
            return Err(Error::invalid("linux.timeOffsets: offsets without a new time namespace")
                .hint("add {\"type\": \"time\"} to linux.namespaces"));
        }
        Ok(())
    }

    fn place_joins(&mut self, joins: Vec<(super::steps::Slot, i32, String)>, steps: &mut Vec<Step>) {
        let new_user = self.new & libc::CLONE_NEWUSER != 0;
        let joined_user = joins.iter().any(|(_, kind, _)| *kind == libc::CLONE_NEWUSER);
        const REVERSIBLE: i32 =
            libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWCGROUP;
        let makes_some = self.clone_flags & !libc::CLONE_NEWUSER != 0;
        let mut before = Vec::new();
        let mut after = Vec::new();
        for (slot, kind, path) in joins {
            if kind == libc::CLONE_NEWUSER && makes_some {
                self.owner = Some(slot);
                continue;
            }
            // A process in a new user namespace may not join a namespace that the host owns.
            if new_user && (kind == libc::CLONE_NEWPID || kind & REVERSIBLE != 0) {
                self.parent_joins.push((slot, kind));
                continue;
            }
            let join = |early| Step::Join { slot, kind, path: path.clone(), early };
            if kind == libc::CLONE_NEWPID {
                self.joined_pid = Some(join(false));
                continue;
            }
            if kind == libc::CLONE_NEWUSER {
                after.insert(0, join(false));
            } else if kind == libc::CLONE_NEWNS {
                // Join the mount namespace last: it changes root and working directory.
                after.push(join(false));
            } else if joined_user {
                before.push(join(true));
                after.insert(usize::from(!after.is_empty()), join(false));
            } else {
                before.push(join(false));
            }
        }
        steps.extend(before);
        steps.extend(after);
    }
}

/// The lines for /proc/self/timens_offsets.
///
/// # Errors
/// `Invalid` for a clock that has no offset in a time namespace.
pub fn time_offsets(linux: &Linux) -> Result<Option<std::ffi::CString>> {
    let Some(offsets) = linux.time_offsets().as_ref().filter(|o| !o.is_empty()) else { return Ok(None) };
    let mut text = String::new();
    // Sorted, whatever the order of the map: the same configuration gives the same plan.
    for (clock, offset) in std::collections::BTreeMap::from_iter(offsets) {
        if clock != "monotonic" && clock != "boottime" {
            return Err(Error::new(Kind::Invalid, format!("linux.timeOffsets: there is no clock {clock:?}"))
                .hint("monotonic and boottime are the clocks of a time namespace"));
        }
        let (secs, nanos) = (offset.secs().unwrap_or_default(), offset.nanosecs().unwrap_or_default());
        text.push_str(&format!("{clock} {secs} {nanos}\n"));
    }
    super::text::cstring("linux.timeOffsets", text).map(Some)
}
