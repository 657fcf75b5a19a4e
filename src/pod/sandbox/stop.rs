//! StopPodSandbox and RemovePodSandbox, except for the pod's containers: `Pods` stops and removes those first.

use super::run::attachment;
use super::{Sandbox, Sandboxes};
use crate::error::Result;
use crate::net::namespace;
use crate::pod::files;
use crate::spec::request::Scope;

impl Sandboxes {
    /// Kills the init process of a pod without running containers, and detaches its network. A second call is no error.
    ///
    /// # Errors
    /// The process does not die, or a CNI plugin fails: kubelet retries.
    pub(in crate::pod) fn tear_down(&self, sandbox: &Sandbox) -> Result<()> {
        self.end_init(&sandbox.id)?;
        if sandbox.request.namespaces.network == Scope::Pod {
            let attachment = attachment(&sandbox.id, &sandbox.config, &sandbox.request, &sandbox.directory);
            let cni = &self.host.offer().cni;
            // The namespace is unpinned after DEL has succeeded, so a pod that has one is attached.
            match namespace::is_pinned(&attachment.namespace) {
                true => cni.delete_attached(&attachment)?,
                false => cni.delete(&attachment)?,
            }
            namespace::remove(&attachment.namespace)?;
        }
        Ok(())
    }

    /// Removes a pod that was torn down and whose containers were removed.
    ///
    /// # Errors
    /// Its record or directory cannot be removed: kubelet retries.
    pub(in crate::pod) fn remove(&self, sandbox: &Sandbox) -> Result<()> {
        files::remove(&sandbox.directory);
        sandbox.remove_record()?;
        sandbox.directory.remove()?;
        self.table.remove(&sandbox.id);
        Ok(())
    }
}
