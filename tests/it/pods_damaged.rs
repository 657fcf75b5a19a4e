//! Pods whose files a full or lost filesystem damaged: they can be stopped and removed all the same.

use std::fs;

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
