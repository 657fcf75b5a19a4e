//! The pods as their records in the run directory have them, for `coracle status`: it works while the daemon is stopped.

use std::path::Path;

use coracle_cri::v1;
use serde::Serialize;

use super::machine::State;
use super::records::{ContainerRecord, Directories, Directory, SandboxRecord};
use crate::error::Result;

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodSummary {
    /// Its id in the CRI.
    pub id: String,
    /// Its namespace in Kubernetes.
    pub namespace: String,
    /// Its name in Kubernetes.
    pub name: String,
    /// Whether containers can be started in it.
    pub ready: bool,
    /// When it was created, in nanoseconds since 1970.
    pub created_ns: i64,
    /// Its IP addresses.
    pub addresses: Vec<std::net::IpAddr>,
    /// Its containers by name.
    pub containers: Vec<ContainerSummary>,
}

/// A container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSummary {
    /// Its id in the CRI.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// How often kubelet has restarted it.
    pub attempt: u32,
    /// The image, as kubelet named it.
    pub image: String,
    /// `created`, `running` or `exited`.
    pub state: &'static str,
    /// Its exit code, once it has exited.
    pub exit_code: Option<i32>,
    /// Why it has exited: one word, such as `OOMKilled`.
    pub reason: String,
    /// What happened, for people.
    pub message: String,
}

/// The pods by namespace and name, and how many records cannot be read. Nothing is changed.
///
/// # Errors
/// The run directory cannot be read.
pub fn summarize(run: &Path) -> Result<(Vec<PodSummary>, usize)> {
    let directories = Directories::new(run);
    let (mut pods, mut unreadable) = (Vec::new(), 0);
    for id in directories.all()? {
        let directory = directories.pod(&id);
        match directory.load::<v1::PodSandboxConfig, SandboxRecord>() {
            Ok(Some((config, record))) => {
                let (containers, damaged) = containers(&directory)?;
                unreadable += damaged;
                pods.push(pod(id, config, record, containers));
            }
            // It is being created or removed.
            Ok(None) => {}
            Err(_) => unreadable += 1,
        }
    }
    pods.sort_by(|a, b| (&a.namespace, &a.name, a.created_ns).cmp(&(&b.namespace, &b.name, b.created_ns)));
    Ok((pods, unreadable))
}

fn pod(
    id: String,
    config: v1::PodSandboxConfig,
    record: SandboxRecord,
    containers: Vec<ContainerSummary>,
) -> PodSummary {
    let metadata = config.metadata.unwrap_or_default();
    PodSummary {
        id,
        namespace: metadata.namespace,
        name: metadata.name,
        ready: record.ready,
        created_ns: record.created_ns,
        addresses: record.addresses,
        containers,
    }
}

fn containers(pod: &Directory) -> Result<(Vec<ContainerSummary>, usize)> {
    let (mut all, mut unreadable) = (Vec::new(), 0);
    for id in pod.containers()? {
        match pod.container(&id).load::<v1::ContainerConfig, ContainerRecord>() {
            Ok(Some((config, record))) => all.push(container(id, config, record)),
            Ok(None) => {}
            Err(_) => unreadable += 1,
        }
    }
    all.sort_by(|a, b| (&a.name, a.attempt).cmp(&(&b.name, b.attempt)));
    Ok((all, unreadable))
}

fn container(id: String, config: v1::ContainerConfig, record: ContainerRecord) -> ContainerSummary {
    let metadata = config.metadata.unwrap_or_default();
    let image = config.image.unwrap_or_default();
    let named = if image.user_specified_image.is_empty() { image.image } else { image.user_specified_image };
    let state = match record.state {
        State::Created | State::Starting => "created",
        State::Running => "running",
        State::Exited | State::Gone => "exited",
    };
    ContainerSummary {
        id,
        name: metadata.name,
        attempt: metadata.attempt,
        image: named,
        state,
        exit_code: (state == "exited").then_some(record.exit_code),
        reason: record.reason,
        message: record.message,
    }
}
