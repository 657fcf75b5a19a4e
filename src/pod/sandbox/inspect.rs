//! The verbose information of PodSandboxStatus, with the names that containerd gives it: `crictl inspectp` and the templates of
//! other tools read them.

use serde_json::{Map, Value, json};

use super::namespaces::shared_namespaces;
use super::run::INTERFACE;
use super::{Sandbox, Sandboxes};
use crate::pod::records::SandboxRecord;
use crate::spec::request::Scope;

impl Sandboxes {
    /// What `crictl inspectp` shows as `info`. There is no pause container, so `pid` is that of another process in the pod's
    /// namespaces: `container_pid` unless the pod has an init process.
    pub(in crate::pod) fn info(&self, sandbox: &Sandbox, container_pid: Option<i32>) -> Value {
        let record = sandbox.record();
        let init_pid = match sandbox.request.namespaces.pid {
            Scope::Pod => self.host.init_pid(&sandbox.id).ok(),
            Scope::Host | Scope::Container | Scope::Target(_) => None,
        };
        let network = sandbox.namespace("net");
        let has_network = sandbox.request.namespaces.network == Scope::Pod;
        json!({
            "pid": init_pid.or(container_pid).unwrap_or(0),
            "processStatus": if record.ready { "running" } else { "deleted" },
            "netNamespaceClosed": has_network && network.is_none(),
            "image": "",
            "snapshotKey": sandbox.id,
            "snapshotter": "overlayfs",
            "runtimeHandler": record.handler,
            "runtimeType": "coracle",
            "runtimeOptions": { "SystemdCgroup": self.host.settings.systemd_cgroup },
            "config": sandbox.config,
            "runtimeSpec": self.spec(sandbox),
            "cniResult": self.cni_result(sandbox),
            "sandboxMetadata": metadata(sandbox, &record),
            "directory": sandbox.directory.path(),
            "networkNamespace": network,
            "record": record,
        })
    }

    /// The part of an OCI spec that a pod has: its namespaces, its cgroup and its kernel parameters.
    fn spec(&self, sandbox: &Sandbox) -> Value {
        let own = &sandbox.request.namespaces;
        let mut namespaces: Vec<Value> =
            shared_namespaces(own, &sandbox.directory).filter_map(|n| serde_json::to_value(n).ok()).collect();
        if own.pid == Scope::Pod {
            namespaces.push(json!({ "type": "pid", "path": sandbox.directory.join("pid") }));
        }
        let cgroup = self.host.cgroup_path(sandbox.request.cgroup_parent.as_deref(), &sandbox.id);
        let metadata = sandbox.config.metadata.clone().unwrap_or_default();
        json!({
            "ociVersion": crate::record::OCI_VERSION,
            "hostname": sandbox.hostname(),
            "annotations": {
                "io.kubernetes.cri.container-type": "sandbox",
                "io.kubernetes.cri.sandbox-id": sandbox.id,
                "io.kubernetes.cri.sandbox-name": metadata.name,
                "io.kubernetes.cri.sandbox-namespace": metadata.namespace,
                "io.kubernetes.cri.sandbox-uid": metadata.uid,
                "io.kubernetes.cri.sandbox-log-directory": sandbox.config.log_directory,
            },
            "linux": {
                "cgroupsPath": cgroup,
                "namespaces": namespaces,
                "sysctl": sandbox.request.sysctls,
            },
        })
    }

    /// The result of the CNI plugins in the form of go-cni, which containerd shows; null without a network of the pod's own.
    fn cni_result(&self, sandbox: &Sandbox) -> Value {
        let result = self.host.offer().cni.result(&sandbox.id, INTERFACE);
        result.map_or(Value::Null, |result| to_go_cni(&result))
    }
}

/// containerd's metadata of a pod, with its version as there.
fn metadata(sandbox: &Sandbox, record: &SandboxRecord) -> Value {
    let metadata = sandbox.config.metadata.clone().unwrap_or_default();
    let name = format!("{}_{}_{}_{}", metadata.name, metadata.namespace, metadata.uid, metadata.attempt);
    let addresses: Vec<_> = record.addresses.iter().map(ToString::to_string).collect();
    json!({
        "Version": "v1",
        "Metadata": {
            "ID": sandbox.id,
            "Name": name,
            "Config": sandbox.config,
            "NetNSPath": sandbox.namespace("net").unwrap_or_default(),
            "IP": addresses.first().cloned().unwrap_or_default(),
            "AdditionalIPs": addresses.get(1..).unwrap_or_default(),
            "RuntimeHandler": record.handler,
        },
    })
}

/// Converts the last plugin's result. SPEC(cni 1.1.0 #add-success)
fn to_go_cni(result: &Value) -> Value {
    let list = |name: &str| result[name].as_array().cloned().unwrap_or_default();
    let address = |ip: &Value| {
        let text = ip["address"].as_str().unwrap_or_default();
        json!({
            "IP": text.split('/').next().unwrap_or_default(),
            "Gateway": ip["gateway"].as_str().unwrap_or_default(),
        })
    };
    let mut interfaces = Map::new();
    for (index, interface) in list("interfaces").iter().enumerate() {
        let own = list("ips").iter().filter(|ip| ip["interface"] == index).map(address).collect::<Vec<_>>();
        let shown = json!({
            "IPConfigs": own,
            "Mac": interface["mac"].as_str().unwrap_or_default(),
            "Sandbox": interface["sandbox"].as_str().unwrap_or_default(),
        });
        interfaces.insert(interface["name"].as_str().unwrap_or_default().to_owned(), shown);
    }
    if interfaces.is_empty() {
        // Results before CNI 0.3 name no interfaces, and later ones need not.
        let own = list("ips").iter().map(address).collect::<Vec<_>>();
        interfaces.insert(INTERFACE.to_owned(), json!({ "IPConfigs": own, "Mac": "", "Sandbox": "" }));
    }
    json!({ "Interfaces": interfaces, "DNS": [result["dns"]], "Routes": result["routes"] })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_result_of_the_plugins_is_shown_as_containerd_shows_it() {
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [{"name": "br0", "mac": "m0"}, {"name": "eth0", "mac": "m1", "sandbox": "/run/net"}],
            "ips": [{"address": "10.0.0.2/24", "gateway": "10.0.0.1", "interface": 1}, {"address": "fd00::2/64", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0"}],
        });
        let shown = to_go_cni(&result);
        let addresses = json!([{"IP": "10.0.0.2", "Gateway": "10.0.0.1"}, {"IP": "fd00::2", "Gateway": ""}]);
        let eth0 = json!({"IPConfigs": addresses, "Mac": "m1", "Sandbox": "/run/net"});
        assert_eq!(shown["Interfaces"]["eth0"], eth0);
        assert_eq!(shown["Interfaces"]["br0"]["IPConfigs"], json!([]));
        assert_eq!(shown["Routes"], json!([{"dst": "0.0.0.0/0"}]));
        let plain = to_go_cni(&json!({"ips": [{"address": "10.0.0.2/24"}]}));
        assert_eq!(plain["Interfaces"]["eth0"]["IPConfigs"][0]["IP"], "10.0.0.2");
    }
}
