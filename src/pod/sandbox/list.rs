//! ListPodSandbox and PodSandboxStatus.

use coracle_cri::v1;

use super::{Sandbox, Sandboxes};
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

    pub(in crate::pod) fn status(&self) -> v1::PodSandboxStatus {
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

    /// The response to PodSandboxStatus; `info` is the verbose information, if it is wanted.
    pub(in crate::pod) fn status_response(
        &self,
        info: Option<serde_json::Value>,
    ) -> v1::PodSandboxStatusResponse {
        let info = info.into_iter().map(|info| ("info".to_owned(), info.to_string())).collect();
        v1::PodSandboxStatusResponse { status: Some(self.status()), info, ..Default::default() }
    }
}

impl Sandboxes {
    /// All pods.
    pub(in crate::pod) fn list(&self) -> Vec<v1::PodSandbox> {
        self.table.lock().values().map(|sandbox| sandbox.summary()).collect()
    }
}
