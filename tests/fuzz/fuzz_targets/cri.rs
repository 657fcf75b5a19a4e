//! Any bytes as what kubelet sends to make a pod and a container of it: refused, or understood without a panic. The first
//! byte says where the pod's message ends, in parts of 256.
#![no_main]

use coracle::pod::request_from_cri::{CreateRequest, SandboxRequest};
use coracle_cri::Message;
use coracle_cri::v1::{CreateContainerRequest, RunPodSandboxRequest};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, rest)) = bytes.split_first() else { return };
    let (pod, container) = rest.split_at(rest.len() * usize::from(*first) / 256);
    let Ok(pod) = RunPodSandboxRequest::decode(pod) else { return };
    let Some(pod) = pod.config else { return };
    let Ok(pod) = SandboxRequest::from_cri(&pod) else { return };
    if let Some(text) = &pod.resolv_conf {
        assert!(text.is_empty() || text.ends_with('\n'));
    }
    let Ok(container) = CreateContainerRequest::decode(container) else { return };
    if let Some(config) = &container.config {
        let _ = CreateRequest::from_cri(config, &pod);
    }
});
