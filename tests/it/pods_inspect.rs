//! The verbose information that `crictl inspect` and `inspectp` show: tools' templates read it as containerd's.

use coracle_cri::v1::*;
use serde_json::{Value, json};

use crate::pods_network::{in_pod, node};
use crate::support::{Serve, container, pod_on_host, pod_with, wait_until};

impl Serve {
    /// The verbose information of a pod's status.
    #[track_caller]
    fn info_of_pod(&self, id: &str) -> Value {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        let response = self.run(self.runtime().pod_sandbox_status(request)).unwrap();
        serde_json::from_str(&response.info["info"]).unwrap()
    }
}

/// The path of a namespace in a spec.
fn namespace<'a>(spec: &'a Value, kind: &str) -> Option<&'a str> {
    let all = spec["linux"]["namespaces"].as_array().unwrap();
    all.iter().find(|namespace| namespace["type"] == kind)?["path"].as_str()
}

#[test]
fn a_container_is_described_through_its_life() {
    needs!(root, busybox, launch_verb);
    let serve = Serve::new();
    let pod = serve.logged(pod_on_host("described"));
    let id = serve.run_pod(&pod);
    let mut config = container(&pod, "box", "while [ ! -e /go ]; do sleep 0.02; done");
    config.envs = vec![KeyValue { key: "A".to_owned(), value: b"b".to_vec() }];
    config.labels = [("app".to_owned(), "web".to_owned())].into();
    let limits = LinuxContainerResources { memory_limit_in_bytes: 64 << 20, ..Default::default() };
    config.linux.as_mut().unwrap().resources = Some(limits);
    let c = serve.try_create(&id, &pod, &config).unwrap();
    let described = |pid: i64| {
        let info = serve.info_of(&c);
        assert_eq!(info["pid"], pid, "{info}");
        assert_eq!(info["sandboxID"], id);
        assert_eq!(info["removing"], false);
        assert_eq!(info["snapshotKey"], c);
        // As Go shows a message: names of the proto file, and only what is set.
        assert_eq!(info["config"]["metadata"], json!({"name": "box"}));
        assert_eq!(info["config"]["envs"], json!([{"key": "A", "value": "b"}]));
        assert_eq!(info["config"]["labels"], json!({"app": "web"}));
        assert_eq!(info["config"]["log_path"], "box.log");
        assert_eq!(info["config"]["linux"]["resources"], json!({"memory_limit_in_bytes": 64 << 20}));
        let spec = &info["runtimeSpec"];
        assert_eq!(spec["process"]["args"][0], "/bin/sh", "{spec}");
        assert!(spec["process"]["env"].as_array().unwrap().contains(&json!("A=b")));
        assert_eq!(spec["linux"]["resources"]["memory"]["limit"], 64 << 20);
        assert!(spec["mounts"].as_array().is_some_and(|mounts| !mounts.is_empty()));
    };
    described(0);
    serve.try_start(&c).unwrap();
    let pid = serve.pid_of(&c);
    assert!(std::path::Path::new(&format!("/proc/{pid}/root/bin/busybox")).exists());
    described(pid);
    serve.kill();
    serve.start();
    described(pid);
    assert_eq!(serve.info_of_pod(&id)["pid"], pid);
    std::fs::write(format!("/proc/{pid}/root/go"), "").unwrap();
    serve.exited(&c);
    let state = serve.sandbox().root().join(&c);
    wait_until("its state to be removed", || (!state.exists()).then_some(()));
    described(0);
    assert_eq!(serve.info_of_pod(&id)["pid"], 0);
    serve.removes_all();
}

#[test]
fn a_pod_is_described_with_its_namespaces_and_network() {
    needs!(root, busybox, launch_verb, cni_plugins);
    let serve = node();
    let mut pod = serve.logged(PodSandboxConfig { hostname: "web".to_owned(), ..pod_with("web", in_pod()) });
    pod.linux.as_mut().unwrap().sysctls = [("net.core.somaxconn".to_owned(), "77".to_owned())].into();
    let id = serve.run_pod(&pod);
    let address = serve.try_pod_status(&id).unwrap().network.unwrap().ip;
    let info = serve.info_of_pod(&id);
    assert_eq!((&info["pid"], &info["processStatus"]), (&json!(0), &json!("running")));
    assert_eq!(info["netNamespaceClosed"], false);
    assert_eq!(info["config"]["metadata"]["namespace"], "tests");
    assert_eq!(info["config"]["hostname"], "web");
    let spec = &info["runtimeSpec"];
    let network = namespace(spec, "network").unwrap();
    assert!(coracle::net::namespace::is_pinned(network.as_ref()), "{network}");
    assert_eq!(namespace(spec, "pid"), None);
    assert_eq!(
        (&spec["hostname"], &spec["linux"]["sysctl"]["net.core.somaxconn"]),
        (&json!("web"), &json!("77"))
    );
    assert_eq!(info["cniResult"]["Interfaces"]["eth0"]["IPConfigs"][0]["IP"], address);
    let metadata = &info["sandboxMetadata"]["Metadata"];
    assert_eq!((&metadata["NetNSPath"], &metadata["IP"]), (&json!(network), &json!(address)));
    let c = serve.run_container(&id, &pod, &container(&pod, "box", "sleep 1000"));
    assert_eq!(serve.info_of_pod(&id)["pid"], serve.pid_of(&c));
    assert_eq!(namespace(&serve.info_of(&c)["runtimeSpec"], "network"), Some(network));
    serve.try_stop_pod(&id).unwrap();
    let info = serve.info_of_pod(&id);
    assert_eq!((&info["processStatus"], &info["netNamespaceClosed"]), (&json!("deleted"), &json!(true)));
    serve.removes_all();

    let shared = NamespaceOption { pid: NamespaceMode::Pod.into(), ..in_pod() };
    let id = serve.run_pod(&serve.logged(pod_with("shared", shared)));
    let info = serve.info_of_pod(&id);
    let pid = info["pid"].as_i64().unwrap();
    assert!(pid > 0);
    let pinned = namespace(&info["runtimeSpec"], "pid").unwrap();
    let inode = |path: &str| std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(path).unwrap());
    assert_eq!(inode(&format!("/proc/{pid}/ns/pid")), inode(pinned));
    serve.removes_all();
}
