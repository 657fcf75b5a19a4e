//! Serialization of those parts of a plan whose types are the kernel's or another crate's, which serde does not know.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sys::mount::MountAttr;
use crate::sys::process::SchedAttr;

#[derive(Serialize, Deserialize)]
#[serde(remote = "MountAttr")]
pub(super) struct MountAttrs {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "SchedAttr")]
pub(super) struct SchedAttrs {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

pub(super) mod optional_attr {
    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Wrapped(#[serde(with = "MountAttrs")] MountAttr);

    pub(in crate::launch) fn serialize<S: Serializer>(
        attr: &Option<MountAttr>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        attr.map(Wrapped).serialize(to)
    }

    pub(in crate::launch) fn deserialize<'d, D: Deserializer<'d>>(
        from: D,
    ) -> Result<Option<MountAttr>, D::Error> {
        Ok(Option::<Wrapped>::deserialize(from)?.map(|wrapped| wrapped.0))
    }
}

pub(super) mod strings {
    use super::*;
    use crate::sys::process::StringArray;

    pub(in crate::launch) fn serialize<S: Serializer>(array: &StringArray, to: S) -> Result<S::Ok, S::Error> {
        array.strings().serialize(to)
    }

    pub(in crate::launch) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<StringArray, D::Error> {
        Vec::deserialize(from).map(StringArray::new)
    }
}

pub(super) mod instructions {
    use super::*;
    use libc::sock_filter;

    pub(in crate::launch) fn serialize<S: Serializer>(
        program: &[sock_filter],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(program.iter().map(|i| (i.code, i.jt, i.jf, i.k)))
    }

    pub(in crate::launch) fn deserialize<'d, D: Deserializer<'d>>(
        from: D,
    ) -> Result<Vec<sock_filter>, D::Error> {
        let parts = Vec::<(u16, u8, u8, u32)>::deserialize(from)?;
        Ok(parts.into_iter().map(|(code, jt, jf, k)| sock_filter { code, jt, jf, k }).collect())
    }
}

pub(super) mod resource {
    use super::*;
    use rustix::process::Resource;
    use serde::de::{Error, Unexpected};

    const ALL: [Resource; 16] = [
        Resource::Cpu,
        Resource::Fsize,
        Resource::Data,
        Resource::Stack,
        Resource::Core,
        Resource::Rss,
        Resource::Nproc,
        Resource::Nofile,
        Resource::Memlock,
        Resource::As,
        Resource::Locks,
        Resource::Sigpending,
        Resource::Msgqueue,
        Resource::Nice,
        Resource::Rtprio,
        Resource::Rttime,
    ];

    pub(in crate::launch) fn serialize<S: Serializer>(resource: &Resource, to: S) -> Result<S::Ok, S::Error> {
        (*resource as u32).serialize(to)
    }

    pub(in crate::launch) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Resource, D::Error> {
        let number = u32::deserialize(from)?;
        let unknown = || D::Error::invalid_value(Unexpected::Unsigned(number.into()), &"an RLIMIT_* number");
        ALL.into_iter().find(|resource| *resource as u32 == number).ok_or_else(unknown)
    }
}
