//! StopPodSandbox and RemovePodSandbox.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Sandbox;
use super::run::attachment;
use crate::error::Result;
use crate::pod::{Pods, files};

impl Pods {
    /// Ends a pod's containers, and takes its network away. One that does not exist or is stopped is no error.
    ///
    /// # Errors
    /// A container does not die, or a network plugin fails: to be called again.
    pub fn stop_sandbox(&self, id: &str) -> Result<()> {
        match self.find_sandbox(id)? {
            Some(sandbox) => self.stop_found(&sandbox),
            None => Ok(()),
        }
    }

    fn stop_found(&self, sandbox: &Arc<Sandbox>) -> Result<()> {
        // Before anything is taken away, so that nothing new is started in what is left.
        sandbox.change(|record| record.ready = false)?;
        let _alone = sandbox.work.write().unwrap_or_else(PoisonError::into_inner);
        // The guard of the table would live as long as a loop over it.
        let containers = self.table().of_pod(&sandbox.id);
        for container in containers {
            self.end(&container, Duration::ZERO)?;
        }
        self.end_first_process(&sandbox.id)?;
        let wishes = sandbox.wishes()?;
        if sandbox.network(&wishes).is_some() {
            let attached = attachment(&sandbox.id, &sandbox.config, &wishes, &sandbox.directory);
            self.offer().cni.delete(&attached)?;
            crate::net::namespace::remove(&sandbox.directory.join("net"))?;
        }
        Ok(())
    }

    /// Removes a pod with its containers, by force. One that does not exist is no error.
    ///
    /// # Errors
    /// As [`Pods::stop_sandbox`], or something cannot be removed.
    pub fn remove_sandbox(&self, id: &str) -> Result<()> {
        let Some(sandbox) = self.find_sandbox(id)? else { return Ok(()) };
        self.stop_found(&sandbox)?;
        let containers = self.table().of_pod(&sandbox.id);
        for container in containers {
            self.remove_found(&container)?;
        }
        files::take_down(&sandbox.directory);
        sandbox.directory.forget()?;
        sandbox.directory.remove()?;
        self.table().sandboxes.remove(&sandbox.id);
        Ok(())
    }
}
