//! Failed calls, by call and gRPC code.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The calls of the CRI, and those of cAdvisor. A client chooses what it calls, but it must not choose labels.
const CALLS: [&str; 43] = [
    "Attach",
    "CheckpointContainer",
    "ContainerStats",
    "ContainerStatus",
    "CreateContainer",
    "Exec",
    "ExecSync",
    "Get",
    "GetContainerEvents",
    "ImageFsInfo",
    "ImageStatus",
    "ListContainerStats",
    "ListContainers",
    "ListImages",
    "ListMetricDescriptors",
    "ListPodSandbox",
    "ListPodSandboxMetrics",
    "ListPodSandboxStats",
    "PodSandboxStats",
    "PodSandboxStatus",
    "PortForward",
    "PullImage",
    "RemoveContainer",
    "RemoveImage",
    "RemovePodSandbox",
    "ReopenContainerLog",
    "RunPodSandbox",
    "RuntimeConfig",
    "StartContainer",
    "Status",
    "StopContainer",
    "StopPodSandbox",
    "StreamContainerStats",
    "StreamContainers",
    "StreamImages",
    "StreamPodSandboxMetrics",
    "StreamPodSandboxStats",
    "StreamPodSandboxes",
    "UpdateContainerResources",
    "UpdatePodSandboxResources",
    "UpdateRuntimeConfig",
    "Version",
    "other",
];

/// The number of failed calls.
#[derive(Debug, Default)]
pub(in crate::serve) struct Errors(Mutex<BTreeMap<(&'static str, String), u64>>);

impl Errors {
    /// Counts a failed call. `code` is the name of a gRPC code.
    pub(in crate::serve) fn count(&self, call: &str, code: &str) {
        let known = CALLS.iter().find(|known| **known == call).copied().unwrap_or("other");
        *self.lock().entry((known, code.to_owned())).or_default() += 1;
    }

    /// All that were counted: call, code, number.
    pub(super) fn all(&self) -> Vec<(&'static str, String, u64)> {
        self.lock().iter().map(|((call, code), count)| (*call, code.clone(), *count)).collect()
    }

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    fn lock(&self) -> MutexGuard<'_, BTreeMap<(&'static str, String), u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_of_the_api_has_its_own_count_and_unknown_ones_share_one() {
        let proto = include_str!("../../../cri/proto/api.proto");
        let calls = proto.lines().filter_map(|line| line.trim().strip_prefix("rpc ")?.split('(').next());
        let missing: Vec<_> = calls.filter(|call| !CALLS.contains(call)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let errors = Errors::default();
        errors.count("PullImage", "NotFound");
        errors.count("PullImage", "NotFound");
        for number in 0..100 {
            errors.count(&format!("Bogus{number}"), "Unimplemented");
        }
        let expected = [("PullImage", "NotFound".to_owned(), 2), ("other", "Unimplemented".to_owned(), 100)];
        assert_eq!(errors.all(), expected);
    }
}
