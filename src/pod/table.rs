//! Pods or containers in memory, by id.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

type Entries<T> = BTreeMap<String, Arc<T>>;

/// A map from id to entry that threads share.
#[derive(Debug)]
pub(super) struct Table<T>(Mutex<Entries<T>>);

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> Table<T> {
    /// The locked map. No code that may panic halfway through a change runs under the lock, so a poisoned map is intact.
    pub(super) fn lock(&self) -> MutexGuard<'_, Entries<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All entries, copied so that callers iterate without the lock.
    pub(super) fn all(&self) -> Vec<Arc<T>> {
        self.lock().values().cloned().collect()
    }

    /// The entry with exactly this id.
    pub(super) fn get(&self, id: &str) -> Option<Arc<T>> {
        self.lock().get(id).cloned()
    }

    pub(super) fn insert(&self, id: String, entry: Arc<T>) {
        self.lock().insert(id, entry);
    }

    pub(super) fn remove(&self, id: &str) {
        self.lock().remove(id);
    }

    /// The entry whose id is `id` or, failing that, the only one whose id begins with it.
    ///
    /// # Errors
    /// `Invalid` when several ids begin with `id`.
    pub(super) fn find(&self, id: &str) -> Result<Option<Arc<T>>> {
        let entries = self.lock();
        let mut matching = entries
            .range::<str, _>((Bound::Included(id), Bound::Unbounded))
            .take_while(|(known, _)| known.starts_with(id));
        match (matching.next(), matching.next()) {
            (Some((known, entry)), _) if known == id => Ok(Some(Arc::clone(entry))),
            (Some((_, entry)), None) => Ok(Some(Arc::clone(entry))),
            (Some(_), Some(_)) => {
                Err(Error::invalid(format!("several ids begin with {id:?}")).hint("give more of it"))
            }
            (None, _) => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_found_whole_or_by_their_beginning() {
        let table = Table::default();
        for id in ["ab", "abc", "ad"] {
            table.insert(id.to_owned(), Arc::new(id));
        }
        let find = |id| table.find(id).map(|found| found.map(|entry| *entry));
        assert_eq!(find("ab").unwrap(), Some("ab"), "a whole id may be the beginning of another");
        assert_eq!(find("abc").unwrap(), Some("abc"));
        assert_eq!(find("ad").unwrap(), Some("ad"));
        assert_eq!(find("b").unwrap(), None);
        assert!(find("a").is_err());
    }
}
