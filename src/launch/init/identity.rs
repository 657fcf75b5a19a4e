//! Sets the payload's ids, capabilities and limits.

use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};

use super::{At, Outcome};
use crate::launch::steps::{CapabilityMasks, Identity};
use crate::launch::wire::Op;
use crate::linux::ids::MOST_GROUPS;

/// Becomes uid 0 and gid 0 of the user namespace that was just entered.
pub(super) fn become_namespace_root(set_groups: bool) -> Outcome {
    if set_groups {
        match set_thread_groups(&[]) {
            // setgroups(2) is denied if an unprivileged user created the namespace; then there are no groups to drop.
            Err(Errno::PERM) => {}
            other => other.at(Op::SetGroups)?,
        }
    }
    set_ids(0, 0)
}

fn set_ids(uid: u32, gid: u32) -> Outcome {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    set_thread_res_gid(gid, gid, gid).at(Op::SetIds)?;
    set_thread_res_uid(uid, uid, uid).at(Op::SetIds)
}

/// Becomes the user. Capabilities stay permitted, and become effective again, until the final sets: installing the
/// filter may need them.
pub(super) fn assume(identity: &Identity) -> Outcome {
    if identity.uid != 0 {
        set_keep_capabilities(true).at(Op::Prctl)?;
    }
    if identity.set_groups {
        set_groups(&identity.groups)?;
    }
    set_ids(identity.uid, identity.gid)?;
    if identity.uid != 0 {
        let mut sets = capabilities(None).at(Op::Capset)?;
        sets.effective = sets.permitted;
        set_capabilities(None, sets).at(Op::Capset)?;
    }
    Ok(())
}

fn set_groups(groups: &[u32]) -> Outcome {
    // Copied to the stack, because a Gid is its own type around u32 and nothing here may allocate.
    let mut list = [Gid::from_raw(0); MOST_GROUPS];
    let Some(list) = list.get_mut(..groups.len()) else { return Err((Op::SetGroups, Errno::TOOBIG)) };
    for (to, from) in list.iter_mut().zip(groups) {
        *to = Gid::from_raw(*from);
    }
    match set_thread_groups(list) {
        // setgroups(2) is denied in a user namespace created without privilege; if no groups are asked for, that does
        // not matter.
        Err(Errno::PERM) if groups.is_empty() => Ok(()),
        other => other.at(Op::SetGroups),
    }
}

/// Drops all other capabilities from the bounding set; `EINVAL` marks the end of those that the kernel has.
pub(super) fn drop_bounding(keep: u64) -> Outcome {
    for number in 0..64 {
        let capability = 1_u64 << number;
        if keep & capability != 0 {
            continue;
        }
        match remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(capability)) {
            Err(Errno::INVAL) => break,
            other => other.at(Op::Prctl)?,
        }
    }
    Ok(())
}

/// Drops all other capabilities from the permitted and effective sets.
pub(super) fn reduce_capabilities(keep: u64) -> Outcome {
    let mut sets = capabilities(None).at(Op::Capset)?;
    let keep = CapabilitySet::from_bits_retain(keep);
    sets.permitted &= keep;
    sets.effective = sets.permitted;
    set_capabilities(None, sets).at(Op::Capset)
}

/// Sets the final capability sets. Capabilities that the kernel does not know, or that this process does not have,
/// are left out, as runc does.
pub(super) fn set_final_capabilities(masks: &CapabilityMasks) -> Outcome {
    let have = capabilities(None).at(Op::Capset)?.permitted;
    let set = |mask: u64| CapabilitySet::from_bits_retain(mask) & have;
    let sets = CapabilitySets {
        effective: set(masks.effective) & set(masks.permitted),
        permitted: set(masks.permitted),
        inheritable: set(masks.inheritable),
    };
    set_capabilities(None, sets).at(Op::Capset)?;
    clear_ambient_capability_set().at(Op::Prctl)?;
    let ambient = masks.ambient & sets.permitted.bits() & sets.inheritable.bits();
    for number in (0..64).filter(|n| ambient & (1 << n) != 0) {
        configure_capability_in_ambient_set(CapabilitySet::from_bits_retain(1 << number), true)
            .at(Op::Prctl)?;
    }
    Ok(())
}

/// A limit; the largest number means no limit.
pub(super) fn set_limit(resource: Resource, soft: u64, hard: u64) -> Outcome {
    let limit = |value: u64| (value != u64::MAX).then_some(value);
    setrlimit(resource, Rlimit { current: limit(soft), maximum: limit(hard) }).at(Op::Rlimit)
}
