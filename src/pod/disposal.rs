//! Deletes the writable layers of removed containers after the call has been answered: a filesystem that discards blocks when
//! files are deleted (mount option `discard`) takes milliseconds for each directory.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::Result;
use crate::id::ContainerId;
use crate::store::Store;

/// Empties the trash of a store in a thread that exists only while there is something to delete.
#[derive(Debug)]
pub(super) struct Disposal {
    store: Arc<Store>,
    work: Mutex<Work>,
}

#[derive(Debug, Default)]
struct Work {
    is_running: bool,
    /// Something came into the trash since the thread has begun to empty it.
    has_more: bool,
}

impl Disposal {
    pub(super) fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self { store, work: Mutex::default() })
    }

    /// Removes a container's directory from the store, which releases its image. If the daemon is killed before the space is
    /// freed, the next one frees it.
    ///
    /// # Errors
    /// The directory cannot be moved.
    pub(super) fn dispose(self: &Arc<Self>, id: &ContainerId) -> Result<()> {
        self.store.discard_container(id)?;
        self.empty_trash();
        Ok(())
    }

    /// Empties the trash, in a thread if one can be created.
    pub(super) fn empty_trash(self: &Arc<Self>) {
        if !self.begin() {
            return;
        }
        let own = Arc::clone(self);
        let thread = std::thread::Builder::new().name("disposal".to_owned()).stack_size(256 << 10);
        if thread.spawn(move || own.run()).is_err() {
            self.run();
        }
    }

    /// Whether the caller must empty the trash: nobody else does.
    fn begin(&self) -> bool {
        let mut work = self.work();
        work.has_more = true;
        !std::mem::replace(&mut work.is_running, true)
    }

    /// Whether something came into the trash meanwhile; the work ends if not.
    fn goes_on(&self) -> bool {
        let mut work = self.work();
        work.is_running = std::mem::take(&mut work.has_more);
        work.is_running
    }

    fn run(&self) {
        while self.goes_on() {
            if let Err(error) = self.store.empty_trash() {
                crate::log::warning(&error.doing("delete the writable layers of removed containers").chain());
            }
        }
    }

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    fn work(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_disposed_of_is_gone_at_once_and_its_space_soon() {
        let root = tempfile::tempdir().unwrap();
        let store = Arc::new(Store::open(root.path()).unwrap());
        let disposal = Disposal::new(Arc::clone(&store));
        let count = |name: &str| std::fs::read_dir(root.path().join(name)).unwrap().count();
        for number in 0..50 {
            let id = ContainerId::parse(&format!("c{number}")).unwrap();
            let tree = store.container_dir(&id).join("upper/a/b/c");
            std::fs::create_dir_all(&tree).unwrap();
            std::fs::write(tree.join("file"), "x").unwrap();
            disposal.dispose(&id).unwrap();
            assert!(!store.container_dir(&id).exists());
            // A second removal is no error.
            disposal.dispose(&id).unwrap();
        }
        for _ in 0..1000 {
            if count("trash") == 0 && !disposal.work().is_running {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!((count("trash"), count("containers")), (0, 0));
    }
}
