//! ListPodSandbox and PodSandboxStatus.

use std::collections::BTreeMap;

use coracle_cri::v1;

use super::Sandbox;
use crate::error::Result;
use crate::pod::Pods;
use crate::pod::records::SandboxRecord;

fn state_of(record: &SandboxRecord) -> i32 {
    let state = match record.ready {
        true => v1::PodSandboxState::SandboxReady,
        false => v1::PodSandboxState::SandboxNotready,
    };
    state.into()
}

impl Sandbox {
    fn summary(&self) -> v1::PodSandbox {
        let record = self.record();
        v1::PodSandbox {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: state_of(&record),
            created_at: record.created_ns,
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: record.handler,
        }
    }

    fn status(&self) -> v1::PodSandboxStatus {
        let record = self.record();
        let mut addresses = record.addresses.iter().map(ToString::to_string);
        let security = self.config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let options = security.and_then(|security| security.namespace_options.clone()).unwrap_or_default();
        v1::PodSandboxStatus {
            id: self.id.clone(),
            metadata: self.config.metadata.clone(),
            state: state_of(&record),
            created_at: record.created_ns,
            network: Some(v1::PodSandboxNetworkStatus {
                ip: addresses.next().unwrap_or_default(),
                additional_ips: addresses.map(|ip| v1::PodIp { ip }).collect(),
            }),
            linux: Some(v1::LinuxPodSandboxStatus {
                namespaces: Some(v1::Namespace { options: Some(options) }),
            }),
            labels: self.config.labels.clone(),
            annotations: self.config.annotations.clone(),
            runtime_handler: record.handler,
        }
    }
}

impl Pods {
    /// All pods, from memory.
    pub(in crate::pod) fn list_sandboxes(&self) -> Vec<v1::PodSandbox> {
        self.table().sandboxes.values().map(|sandbox| sandbox.summary()).collect()
    }

    /// A pod's status.
    ///
    /// # Errors
    /// `NotFound`
    pub(in crate::pod) fn sandbox_status(
        &self,
        id: &str,
        verbose: bool,
    ) -> Result<v1::PodSandboxStatusResponse> {
        let sandbox = self.sandbox(id)?;
        let mut info = BTreeMap::new();
        if verbose {
            let network = sandbox.namespace("net").map(|path| path.display().to_string());
            let text = serde_json::json!({
                "directory": sandbox.directory.path(),
                "networkNamespace": network,
                "record": sandbox.record(),
            });
            info.insert("info".to_owned(), text.to_string());
        }
        Ok(v1::PodSandboxStatusResponse { status: Some(sandbox.status()), info, ..Default::default() })
    }
}
