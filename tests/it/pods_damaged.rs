//! Pods whose files a full or lost filesystem damaged: they can be stopped and removed all the same.

use std::fs;

use coracle_cri::v1::*;

use crate::support::{Serve, container, pod_on_host};

#[test]
fn a_damaged_oci_state_keeps_no_container() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("damaged"));
    for (number, text) in ["", "{\"ociVersion\":", "\0\0\0\0", "[]"].into_iter().enumerate() {
        let id = serve.run_pod(&pod);
        let stops = [Some(5), Some(0), None][number % 3];
        let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
        let state = serve.sandbox().root().join(&c).join("state.json");
        fs::write(&state, text).unwrap();
        let refused = serve.try_exec(&c, "true", None).unwrap_err();
        assert!(!refused.message().contains("coracle "), "a verb for kubelet's container: {refused}");
        match stops {
            Some(seconds) => {
                serve.try_stop(&c, seconds).unwrap();
                serve.exited(&c);
                serve.try_remove(&c).unwrap();
            }
            None => serve.try_stop_pod(&id).unwrap(),
        }
        serve.removes_all();
    }
}

#[test]
fn an_image_in_use_by_a_pod_is_not_said_to_need_a_verb_of_ours() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("uses"));
    let id = serve.run_pod(&pod);
    let c = serve.try_create(&id, &pod, &container(&pod, "box", "sleep 1000")).unwrap();
    let refused = serve.sandbox().coracle(["image", "rm", "box"]).fails();
    assert!(refused.stderr.contains(&format!("crictl rm {c}")), "{refused}");
    serve.removes_all();
}

/// As with a full run directory.
#[test]
fn records_that_cannot_be_written_keep_no_pod() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("unwritten"));
    let id = serve.run_pod(&pod);
    let directory = serve.kept().run_dir().join("pods").join(&id);
    // A record is written by this name first.
    let block = |directory: &std::path::Path| fs::create_dir(directory.join("record.new")).unwrap();
    let free = |directory: &std::path::Path| fs::remove_dir(directory.join("record.new")).unwrap();
    let runs = serve.run_container(&id, &pod, &container(&pod, "runs", "sleep 1000"));
    let created = serve.try_create(&id, &pod, &container(&pod, "created", "sleep 1000")).unwrap();
    let own = directory.join("containers").join(&created);
    block(&own);
    // A start that cannot be recorded is not begun, and can be tried again.
    serve.try_start(&created).unwrap_err();
    assert_eq!(serve.container_state(&created), ContainerState::ContainerCreated);
    free(&own);
    serve.try_start(&created).unwrap();
    for directory in [&directory, &own, &directory.join("containers").join(&runs)] {
        block(directory);
    }
    serve.try_stop(&created, 0).unwrap();
    assert_eq!(serve.container_state(&created), ContainerState::ContainerExited);
    serve.try_stop_pod(&id).unwrap();
    assert_eq!(serve.try_pod_status(&id).unwrap().state(), PodSandboxState::SandboxNotready);
    assert_eq!(serve.container_state(&runs), ContainerState::ContainerExited);
    serve.removes_all();
}
