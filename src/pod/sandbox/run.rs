//! RunPodSandbox: the pod is created completely or not at all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use coracle_cri::v1;

use super::{Sandbox, Sandboxes};
use crate::error::{Error, Kind, Result};
use crate::net::cni::{Attachment, Bandwidth, Capabilities, Dns, PortMapping};
use crate::pod::records::{Directory, SandboxRecord};
use crate::pod::request_from_cri::{PortProtocol, SandboxRequest};
use crate::pod::{files, new_id, now_ns, requests};
use crate::spec::request::Scope;
use crate::undo::Undo;

/// The name of the interface that the CNI plugins create in a pod.
pub(in crate::pod) const INTERFACE: &str = "eth0";

impl Sandboxes {
    /// Starts a pod and returns its id. A retry returns the pod that the first call started: that call may have finished
    /// after kubelet had given up on it.
    ///
    /// # Errors
    /// `Invalid` for a contradictory configuration, `NotFound` for an unknown handler, `Exists` for another pod of that
    /// name, or the reason why the pod cannot be created. Nothing is left behind then.
    pub(in crate::pod) fn run(&self, config: &v1::PodSandboxConfig, handler: &str) -> Result<String> {
        let mut request = SandboxRequest::from_cri(config)?;
        self.host.check_handler(handler)?;
        if let Some(id) = self.same_sandbox(config, handler)? {
            return Ok(id);
        }
        super::sysctls::add_defaults(&self.host.settings, &mut request);
        let id = new_id()?;
        let mut undo = Undo::new();
        let made = self.make_sandbox(&id, config, handler, request, &mut undo);
        let made = made.map(|sandbox| self.insert(sandbox));
        // Only now, so that the pod is found at any time by those that have seen its cgroup.
        self.starting.remove(&id);
        made?;
        undo.disarm();
        Ok(id)
    }

    /// The pod that an earlier call with the same configuration started, if any.
    fn same_sandbox(&self, config: &v1::PodSandboxConfig, handler: &str) -> Result<Option<String>> {
        let table = self.table.lock();
        let mut named = table.values().filter(|pod| pod.config.metadata == config.metadata);
        let Some(pod) = named.next() else { return Ok(None) };
        let record = pod.record();
        if record.ready && record.handler == handler && pod.config == *config {
            return Ok(Some(pod.id.clone()));
        }
        let name = config.metadata.as_ref().map(|m| m.name.as_str()).unwrap_or_default();
        Err(Error::new(
            Kind::Exists,
            format!("pod {name:?} of the same attempt is there already: {}", pod.id),
        )
        .hint("remove it, or count the attempt up"))
    }

    fn make_sandbox(
        &self,
        id: &str,
        config: &v1::PodSandboxConfig,
        handler: &str,
        request: SandboxRequest,
        undo: &mut Undo,
    ) -> Result<Sandbox> {
        let directory = self.host.directories.pod(id);
        directory.make()?;
        undo.push("directory of the pod", {
            let directory = directory.clone();
            move || drop(directory.remove())
        });
        directory.save_config(config)?;
        requests::save(&directory, &request)?;
        if let Some(logs) = &request.log_directory {
            files::make_log_directory(logs)?;
        }
        undo.push("namespaces and mounts of the pod", {
            let directory = directory.clone();
            move || files::remove(&directory)
        });
        super::namespaces::make(&request, &directory)?;
        files::make(&request, &directory)?;
        let addresses = self.attach(id, config, &request, &directory, undo)?;
        if request.namespaces.pid == Scope::Pod {
            self.starting.insert(id.to_owned(), Arc::new(config.clone()));
            self.start_init(id, &request, &directory, undo)?;
        }
        let record =
            SandboxRecord { handler: handler.to_owned(), created_ns: now_ns(), addresses, ready: true };
        directory.save(&record)?;
        Ok(Sandbox::new(id.to_owned(), config.clone(), request, directory, record))
    }

    /// Attaches a pod to the network, if it has its own network namespace; returns its addresses.
    fn attach(
        &self,
        id: &str,
        config: &v1::PodSandboxConfig,
        request: &SandboxRequest,
        directory: &Directory,
        undo: &mut Undo,
    ) -> Result<Vec<IpAddr>> {
        if request.namespaces.network != Scope::Pod {
            return Ok(Vec::new());
        }
        let attachment = attachment(id, config, request, directory);
        let offer = self.host.offer();
        let doing = |e: Error| e.doing(format!("connect pod {} to the network", name_of(config)));
        let outcome = offer.cni.add(&attachment).map_err(doing)?;
        undo.push("network of the pod", move || {
            if let Err(error) = offer.cni.delete(&attachment) {
                crate::log::warning(&error.chain());
            }
        });
        if outcome.addresses.is_empty() {
            // The pod would be ready, and nothing could reach it.
            let none = Error::new(Kind::System, "the network's plugins gave it no address");
            return Err(doing(none.hint("has the first plugin of the network an \"ipam\" section?")));
        }
        Ok(outcome.addresses)
    }
}

/// The CNI attachment of a pod, with the capabilities that it requests from plugins.
pub(in crate::pod) fn attachment(
    id: &str,
    config: &v1::PodSandboxConfig,
    request: &SandboxRequest,
    directory: &Directory,
) -> Attachment {
    let metadata = config.metadata.clone().unwrap_or_default();
    let args = [
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", &metadata.namespace),
        ("K8S_POD_NAME", &metadata.name),
        ("K8S_POD_INFRA_CONTAINER_ID", id),
        ("K8S_POD_UID", &metadata.uid),
    ];
    Attachment {
        container: id.to_owned(),
        namespace: directory.join("net"),
        interface: INTERFACE.to_owned(),
        args: args.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
        capabilities: capabilities(config, request),
    }
}

fn capabilities(config: &v1::PodSandboxConfig, request: &SandboxRequest) -> Capabilities {
    let ports = request.ports.iter().map(|port| PortMapping {
        protocol: match port.protocol {
            PortProtocol::Tcp => "tcp",
            PortProtocol::Udp => "udp",
            PortProtocol::Sctp => "sctp",
        },
        host_port: port.host_port,
        container_port: port.container_port,
        host_ip: port.host_ip,
    });
    let mut others = BTreeMap::new();
    if !config.annotations.is_empty() {
        let annotations = serde_json::json!(config.annotations);
        others.insert("io.kubernetes.cri.pod-annotations".to_owned(), annotations);
    }
    if let Some(parent) = &request.cgroup_parent {
        others.insert("cgroupPath".to_owned(), serde_json::json!(parent));
    }
    Capabilities {
        ports: ports.collect(),
        bandwidth: Bandwidth { ingress: request.traffic.ingress, egress: request.traffic.egress },
        dns: config.dns_config.as_ref().map(|dns| Dns {
            servers: dns.servers.clone(),
            searches: dns.searches.clone(),
            options: dns.options.clone(),
        }),
        others,
        ..Capabilities::default()
    }
}

fn name_of(config: &v1::PodSandboxConfig) -> String {
    let metadata = config.metadata.clone().unwrap_or_default();
    format!("{}/{}", metadata.namespace, metadata.name)
}
