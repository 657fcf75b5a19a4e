//! The user and groups of a process.

use coracle_cri::v1;

use crate::error::{Error, Result};
use crate::spec::request::{GroupsFromImage, GroupsRequest, Principal, UserRequest};

/// The user and the primary group.
pub(super) fn user(
    uid: Option<v1::Int64Value>,
    gid: Option<v1::Int64Value>,
    name: &str,
) -> Result<UserRequest> {
    let group = gid.map(|gid| id("run_as_group", gid.value).map(Principal::Id)).transpose()?;
    match (uid, name) {
        (Some(_), name) if !name.is_empty() => {
            Err(Error::invalid("run_as_user and run_as_username are both set"))
        }
        (Some(uid), _) => {
            Ok(UserRequest::Named { user: Principal::Id(id("run_as_user", uid.value)?), group })
        }
        (None, "") if group.is_some() => Err(Error::invalid("run_as_group without run_as_user")),
        (None, "") => Ok(UserRequest::Image),
        (None, name) => Ok(UserRequest::Named { user: Principal::parse("run_as_username", name)?, group }),
    }
}

/// The supplementary groups. An image's `user:group` sets only the primary group; the others are the user's, as in
/// containerd.
pub(super) fn groups(context: &v1::LinuxContainerSecurityContext) -> Result<GroupsRequest> {
    let added = group_ids(&context.supplemental_groups)?.into_iter().map(Principal::Id).collect();
    let from_image = match v1::SupplementalGroupsPolicy::try_from(context.supplemental_groups_policy) {
        Ok(v1::SupplementalGroupsPolicy::Merge) => GroupsFromImage::Always,
        Ok(v1::SupplementalGroupsPolicy::Strict) => GroupsFromImage::Never,
        Err(_) => return Err(Error::invalid("there is no such supplemental_groups_policy")),
    };
    Ok(GroupsRequest { from_image, added })
}

/// Group ids of a container or a sandbox.
pub(super) fn group_ids(list: &[i64]) -> Result<Vec<u32>> {
    list.iter().map(|group| id("supplemental_groups", *group)).collect()
}

/// A user or group id. The largest 32-bit number is refused because it means "no change" to the kernel.
fn id(field: &str, value: i64) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| Error::invalid(format!("{field} {value} is not a user or group id")))
}
