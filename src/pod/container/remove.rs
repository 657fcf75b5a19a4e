//! RemoveContainer.

use std::sync::Arc;
use std::time::Duration;

use coracle_cri::Call;

use super::Container;
use crate::error::Result;
use crate::id::ContainerId;
use crate::oci::delete;
use crate::pod::machine::Event;
use crate::pod::{Pods, volumes};
use crate::store::remove_container;

impl Pods {
    /// Removes a container with its writable layer, by force. One that does not exist is no error.
    ///
    /// # Errors
    /// It does not die, or something cannot be removed: to be called again.
    pub(in crate::pod) fn remove(&self, id: &str) -> Result<()> {
        match self.find_container(id)? {
            Some(container) => self.remove_found(&container),
            None => Ok(()),
        }
    }

    /// As [`Pods::remove`].
    pub(in crate::pod) fn remove_found(&self, container: &Arc<Container>) -> Result<()> {
        self.end(container, Duration::ZERO, &Call::default())?;
        container.apply(Event::Remove, |_| ())?;
        container.life().prepared = None;
        let id = ContainerId::parse(&container.id)?;
        // First: from here on it does not exist, whoever is interrupted.
        container.directory.forget()?;
        delete::delete(&self.runtime(), &id, true)?;
        volumes::unmount_all(container.directory.path());
        remove_container(&self.directories.layer(&container.id))?;
        remove_container(&self.store.container_dir(&id))?;
        // Last: by it a daemon that comes after us finds what is still to be removed.
        container.directory.remove()?;
        self.table().containers.remove(&container.id);
        Ok(())
    }
}
