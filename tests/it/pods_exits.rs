//! Exits that come early or late: while a start is under way, and while a pod is removed.

use coracle_cri::v1::*;

use crate::support::{Serve, container, pod_on_host, pod_with};

#[test]
fn a_container_that_exits_at_once_has_its_times() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("short"));
    let id = serve.run_pod(&pod);
    for number in 0..40 {
        let c = serve.try_create(&id, &pod, &container(&pod, &format!("true{number}"), "true")).unwrap();
        let (mut runtime, container_id) = (serve.runtime(), c.clone());
        let start =
            serve.begin(async move { runtime.start_container(StartContainerRequest { container_id }).await });
        // The exit may be seen before StartContainer is answered.
        let status = serve.exited(&c);
        assert!(status.created_at <= status.started_at, "{status:?}");
        assert!(status.started_at <= status.finished_at, "{status:?}");
        serve.block_on(start).unwrap().unwrap();
        let later = serve.try_status(&c).unwrap();
        assert_eq!((later.started_at, later.finished_at), (status.started_at, status.finished_at));
        serve.try_remove(&c).unwrap();
    }
    serve.removes_all();
}

/// The exit of the pod's init process is reported while the pod is stopped and removed.
#[test]
fn pods_with_a_shared_pid_namespace_can_be_removed_each_time() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let options = NamespaceOption {
        network: NamespaceMode::Node.into(),
        pid: NamespaceMode::Pod.into(),
        ..Default::default()
    };
    for number in 0..60 {
        let pod = serve.logged(pod_with(&format!("shared{number}"), options.clone()));
        let id = serve.run_pod(&pod);
        if number % 2 == 0 {
            serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
        }
        if number % 3 == 0 {
            serve.try_stop_pod(&id).unwrap();
        }
        serve.try_remove_pod(&id).unwrap();
    }
    serve.removes_all();
}
