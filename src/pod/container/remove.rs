//! RemoveContainer.

use std::time::Duration;

use coracle_cri::Call;

use super::{Container, Containers};
use crate::error::Result;
use crate::id::ContainerId;
use crate::oci::delete;
use crate::pod::machine::Event;
use crate::pod::volumes;
use crate::store::remove_container;

impl Containers {
    /// Removes a container with its writable layer, and kills it first if it is running. `announce` is called as long as it
    /// is still found, so that its pod, which is removed after it, is not announced before it.
    ///
    /// # Errors
    /// It does not die, or something cannot be removed: kubelet retries.
    pub(in crate::pod) fn remove(&self, container: &Container, announce: impl FnOnce()) -> Result<()> {
        self.stop(container, Duration::ZERO, &Call::default())?;
        container.apply(Event::Remove, |_| ())?;
        container.life().prepared = None;
        let id = ContainerId::parse(&container.id)?;
        // First: without a record the container does not exist, even if the rest is interrupted.
        container.directory.remove_record()?;
        delete::delete(&self.host.runtime(), &id, true)?;
        volumes::unmount_all(container.directory.path());
        remove_container(&self.host.directories.layer(&container.id))?;
        self.host.disposal.dispose(&id)?;
        // Last, because the next daemon finds an interrupted removal by this directory.
        container.directory.remove()?;
        container.life().is_removed = true;
        announce();
        self.table.remove(&container.id);
        Ok(())
    }
}
