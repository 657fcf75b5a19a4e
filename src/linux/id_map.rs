//! Id mappings of user namespaces and mounts; user_namespaces(7).

use oci_spec::runtime::LinuxIdMapping;

use super::ids::NO_ID;
use crate::error::{Error, Result};

/// The greatest number of lines in uid_map and gid_map. KERNEL(4.15)
const MOST: usize = 340;

/// Contents of uid_map and gid_map; user_namespaces(7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// Lines of uid_map.
    pub uid: String,
    /// Lines of gid_map.
    pub gid: String,
}

impl IdMaps {
    /// Joins mappings to the text the kernel expects.
    pub fn new(uid: &[LinuxIdMapping], gid: &[LinuxIdMapping]) -> Self {
        Self { uid: lines(uid), gid: lines(gid) }
    }
}

fn lines(maps: &[LinuxIdMapping]) -> String {
    maps.iter().map(|m| format!("{} {} {}\n", m.container_id(), m.host_id(), m.size())).collect()
}

/// Checks mappings as the kernel does, because the kernel reports only EINVAL without a name.
///
/// # Errors
/// `Invalid`, naming the field and the mapping: it is empty, exceeds the largest id, or overlaps another.
pub fn check(field: &str, maps: &[LinuxIdMapping]) -> Result<()> {
    if maps.len() > MOST {
        return Err(Error::invalid(format!("{field}: {} mappings are more than {MOST}", maps.len())));
    }
    for (index, map) in maps.iter().enumerate() {
        let refuse = |why: &str| {
            let (inside, outside, size) = (map.container_id(), map.host_id(), map.size());
            let hint = "ids go from 0 to 4294967294, and each is mapped once";
            let what = format!("{field}: {size} ids from {inside} inside and {outside} outside {why}");
            Err(Error::invalid(what).hint(hint))
        };
        if map.size() == 0 {
            return refuse("map nothing");
        }
        if [map.container_id(), map.host_id()].iter().any(|first| *first > NO_ID - map.size()) {
            return refuse("go past the largest id");
        }
        if maps.iter().take(index).any(|earlier| overlaps(earlier, map)) {
            return refuse("overlap another mapping");
        }
    }
    Ok(())
}

fn overlaps(one: &LinuxIdMapping, other: &LinuxIdMapping) -> bool {
    let meets = |a: u32, b: u32| {
        u64::from(a) < u64::from(b) + u64::from(other.size())
            && u64::from(b) < u64::from(a) + u64::from(one.size())
    };
    meets(one.container_id(), other.container_id()) || meets(one.host_id(), other.host_id())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::LinuxIdMappingBuilder;

    fn maps(list: &[(u32, u32, u32)]) -> Vec<LinuxIdMapping> {
        let map = |(inside, outside, size): &(u32, u32, u32)| {
            let builder = LinuxIdMappingBuilder::default().container_id(*inside).host_id(*outside);
            builder.size(*size).build().unwrap()
        };
        list.iter().map(map).collect()
    }

    #[test]
    fn ranges_have_ids_stay_in_range_and_apart() {
        for good in [
            &[(0, 100_000, 65_536)][..],
            &[(0, 0, u32::MAX)],
            &[(0, 1000, 1), (1, 100_000, 10), (11, 0, 1000)],
            &[(0, 5, 1), (1, u32::MAX - 1, 1)],
        ] {
            check("uidMappings", &maps(good)).unwrap();
        }
        for bad in [
            &[(0, 0, 0)][..],
            &[(0, 1, u32::MAX)],
            &[(1, 0, u32::MAX)],
            &[(0, u32::MAX, 1)],
            &[(u32::MAX, 0, 1)],
            &[(0, 100_000, 10), (9, 200_000, 10)],
            &[(0, 100_000, 10), (10, 100_009, 10)],
            &[(5, 100_000, 1), (0, 200_000, 10)],
        ] {
            assert!(check("uidMappings", &maps(bad)).is_err(), "{bad:?}");
        }
        let many: Vec<_> = (0..341).map(|n| (n, n, 1)).collect();
        assert!(check("uidMappings", &maps(&many)).is_err());
    }
}
