//! StopPodSandbox and RemovePodSandbox.

use std::sync::Arc;
use std::time::Duration;

use coracle_cri::Call;

use super::Sandbox;
use super::run::attachment;
use crate::error::Result;
use crate::pod::machine::State;
use crate::pod::{Pods, files};
use crate::spec::request::Scope;

/// How long a container may take that was being created when its pod was removed.
const LAST_CREATE: Duration = Duration::from_secs(10);

impl Pods {
    /// Ends a pod's containers, and takes its network away. One that does not exist or is stopped is no error.
    ///
    /// # Errors
    /// A container does not die, or a network plugin fails: to be called again.
    pub(in crate::pod) fn stop_sandbox(&self, id: &str) -> Result<()> {
        match self.find_sandbox(id)? {
            Some(sandbox) => self.stop_found(&sandbox),
            None => Ok(()),
        }
    }

    fn stop_found(&self, sandbox: &Arc<Sandbox>) -> Result<()> {
        // Before anything is taken away, so that nothing new is created or started in what is left.
        sandbox.change(|record| record.ready = false)?;
        // The guard of the table would live as long as a loop over it.
        let containers = self.table().of_pod(&sandbox.id);
        // All of them, before any is waited for: one that does not die keeps no other alive.
        for container in &containers {
            container.abort_start();
            if container.state() == State::Running {
                self.kill_now(container)?;
            }
        }
        let ended: Vec<_> = containers
            .iter()
            .map(|container| self.end(container, Duration::ZERO, &Call::default()))
            .collect();
        ended.into_iter().collect::<Result<()>>()?;
        self.end_first_process(&sandbox.id)?;
        if sandbox.request.namespaces.network == Scope::Pod {
            let attached = attachment(&sandbox.id, &sandbox.config, &sandbox.request, &sandbox.directory);
            self.offer().cni.delete(&attached)?;
            crate::net::namespace::remove(&sandbox.directory.join("net"))?;
        }
        Ok(())
    }

    /// Removes a pod with its containers, by force. One that does not exist is no error.
    ///
    /// # Errors
    /// As [`Pods::stop_sandbox`], or something cannot be removed.
    pub(in crate::pod) fn remove_sandbox(&self, id: &str) -> Result<()> {
        let Some(sandbox) = self.find_sandbox(id)? else { return Ok(()) };
        self.stop_found(&sandbox)?;
        sandbox.await_creates(LAST_CREATE)?;
        let containers = self.table().of_pod(&sandbox.id);
        for container in containers {
            self.remove_found(&container)?;
        }
        files::remove(&sandbox.directory);
        sandbox.forget()?;
        sandbox.directory.remove()?;
        self.table().sandboxes.remove(&sandbox.id);
        Ok(())
    }
}
