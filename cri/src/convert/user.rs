//! Who a process runs as.

use crate::error::{Error, Result};
use crate::v1;

/// The user and the main group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunAs {
    /// The image's user.
    Image,
    /// A user by number; without a group it is the one the image's /etc/passwd has for it, else 0.
    Uid {
        /// The user id.
        uid: u32,
        /// The group id.
        gid: Option<u32>,
    },
    /// A user of the image's /etc/passwd, who must be there.
    Name {
        /// The user's name.
        name: String,
        /// The group id.
        gid: Option<u32>,
    },
}

impl RunAs {
    pub(super) fn of(uid: Option<v1::Int64Value>, gid: Option<v1::Int64Value>, name: &str) -> Result<Self> {
        let gid = gid.map(|g| id("run_as_group", g.value)).transpose()?;
        match (uid, name) {
            (Some(_), name) if !name.is_empty() => {
                Err(Error::invalid("run_as_user and run_as_username are both set"))
            }
            (Some(uid), _) => Ok(Self::Uid { uid: id("run_as_user", uid.value)?, gid }),
            (None, "") if gid.is_some() => Err(Error::invalid("run_as_group without run_as_user")),
            (None, "") => Ok(Self::Image),
            (None, name) => Ok(Self::Name { name: name.to_owned(), gid }),
        }
    }
}

/// The groups beside the main one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Groups {
    /// Group ids.
    pub ids: Vec<u32>,
    /// Whether the groups that the image's /etc/group gives the user are left out.
    pub strict: bool,
}

impl Groups {
    pub(super) fn of(context: &v1::LinuxContainerSecurityContext) -> Result<Self> {
        let ids = group_ids(&context.supplemental_groups)?;
        let strict = match v1::SupplementalGroupsPolicy::try_from(context.supplemental_groups_policy) {
            Ok(v1::SupplementalGroupsPolicy::Merge) => false,
            Ok(v1::SupplementalGroupsPolicy::Strict) => true,
            Err(_) => return Err(Error::invalid("there is no such supplemental_groups_policy")),
        };
        Ok(Self { ids, strict })
    }
}

/// The groups of a container or a sandbox.
pub(super) fn group_ids(list: &[i64]) -> Result<Vec<u32>> {
    list.iter().map(|group| id("supplemental_groups", *group)).collect()
}

/// A user or group id. The largest number means "no change" to the kernel, so it is none.
fn id(field: &str, value: i64) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|id| *id != u32::MAX)
        .ok_or_else(|| Error::invalid(format!("{field} {value} is not a user or group id")))
}
