//! All pods and containers, in memory.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::container::Container;
use super::sandbox::Sandbox;
use crate::error::{Error, Result};

/// By id.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) sandboxes: BTreeMap<String, Arc<Sandbox>>,
    pub(super) containers: BTreeMap<String, Arc<Container>>,
}

impl Table {
    /// The containers of a pod.
    pub(super) fn of_pod(&self, pod: &str) -> Vec<Arc<Container>> {
        self.containers.values().filter(|container| container.pod == pod).cloned().collect()
    }
}

/// The one whose id is `id` or begins with it; none when there is none.
///
/// # Errors
/// `Invalid` when several ids begin so.
pub(super) fn find<T>(all: &BTreeMap<String, Arc<T>>, id: &str) -> Result<Option<Arc<T>>> {
    let mut found = all
        .range::<str, _>((Bound::Included(id), Bound::Unbounded))
        .take_while(|(known, _)| known.starts_with(id));
    match (found.next(), found.next()) {
        (Some((known, one)), _) if known == id => Ok(Some(Arc::clone(one))),
        (Some((_, one)), None) => Ok(Some(Arc::clone(one))),
        (Some(_), Some(_)) => {
            Err(Error::invalid(format!("several ids begin with {id:?}")).hint("give more of it"))
        }
        (None, _) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_whole_or_by_their_beginning() {
        let all: BTreeMap<_, _> =
            ["ab", "abc", "ad"].into_iter().map(|id| (id.to_owned(), Arc::new(id))).collect();
        let find = |id| find(&all, id).map(|found| found.map(|f| *f));
        assert_eq!(find("ab").unwrap(), Some("ab"), "a whole id may be the beginning of another");
        assert_eq!(find("abc").unwrap(), Some("abc"));
        assert_eq!(find("ad").unwrap(), Some("ad"));
        assert_eq!(find("b").unwrap(), None);
        assert!(find("a").is_err());
    }
}
