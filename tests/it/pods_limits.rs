//! Limits that a kubelet sends without looking whether the node can hold them.

use coracle_cri::v1::*;

use crate::support::{Serve, container, pod_on_host};

#[test]
fn limits_of_huge_pages_keep_no_container_from_starting() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = pod_on_host("pages");
    let id = serve.run_pod(&pod);
    let mut config = container(&pod, "box", "sleep 1000");
    let limit = |size: &str| HugepageLimit { page_size: size.to_owned(), limit: 0 };
    let resources = LinuxContainerResources {
        hugepage_limits: vec![limit("2MB"), limit("1GB")],
        ..LinuxContainerResources::default()
    };
    config.linux.as_mut().unwrap().resources = Some(resources.clone());
    let c = serve.run_container(&id, &pod, &config);
    assert_eq!(serve.output_in(&c, "echo runs"), "runs");
    let update = UpdateContainerResourcesRequest {
        container_id: c.clone(),
        linux: Some(resources),
        ..UpdateContainerResourcesRequest::default()
    };
    serve.run(serve.runtime().update_container_resources(update)).unwrap();
    serve.removes_all();
}
