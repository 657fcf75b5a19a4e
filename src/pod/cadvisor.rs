//! What cAdvisor, a part of kubelet, asks of containerd, and the cgroups by which it finds pods.
//!
//! cAdvisor reads a pod's network counters from `/proc/<pid>/net/dev`. It asks for the pid once, when it finds the pod's
//! cgroup, and containerd answers with the pause process. There is none here, so the pid is that of a container, and the
//! cgroup, which is empty, exists as long as that process: when it exits, the cgroup is removed and created again, and
//! cAdvisor asks for the pid of another container. What is lost by this: a pod has no network series while none of its
//! containers runs (the counters themselves go on), and a pod on the node's network has none at all; there they would be
//! the node's. A pod that shares its PID namespace has an init process with a cgroup of its own, and needs none of this.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use coracle_cri::containerd::{Record, Task};
use coracle_cri::v1;

use super::container::{Container, Containers};
use super::host::Host;
use super::machine::State;
use super::records::ContainerRecord;
use super::sandbox::{Sandbox, Sandboxes};
use crate::cgroup::{Driver, Marker};
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::spec::request::Scope;
use crate::store::reference::Reference;

/// The image of pods, by which dashboards tell pods from system cgroups, which have none. It is that of kubeadm's pods.
pub(super) const PAUSE: &str = "registry.k8s.io/pause:3.10";

/// Answers cAdvisor's questions.
#[derive(Debug)]
pub(super) struct Cadvisor {
    host: Arc<Host>,
    sandboxes: Arc<Sandboxes>,
    containers: Arc<Containers>,
    /// The process whose pid cAdvisor was told, by pod. Locked while the cgroup of a pod is created or removed.
    shown: Mutex<BTreeMap<String, i32>>,
}

impl Cadvisor {
    /// Removes the cgroups that an earlier daemon has made, since it is not known which processes they stand for, and makes
    /// new ones.
    pub(super) fn new(host: Arc<Host>, sandboxes: Arc<Sandboxes>, containers: Arc<Containers>) -> Self {
        let cadvisor = Self { host, sandboxes, containers, shown: Mutex::default() };
        for sandbox in cadvisor.sandboxes.all().iter().filter(|sandbox| cadvisor.marks(sandbox)) {
            if let Ok(marker) = cadvisor.marker(sandbox) {
                marker.remove();
            }
            cadvisor.refresh(sandbox);
        }
        cadvisor
    }

    /// Makes the cgroup of a pod fit its containers. Called after each change of one.
    pub(super) fn refresh(&self, sandbox: &Sandbox) {
        if !self.marks(sandbox) {
            return;
        }
        let mut shown = self.shown();
        let before = shown.get(&sandbox.id).copied();
        let running = if sandbox.is_ready() { self.containers.pids_in(&sandbox.id) } else { Vec::new() };
        let wanted = before.filter(|pid| running.contains(pid)).or_else(|| running.first().copied());
        if wanted == before {
            return;
        }
        if let Err(error) = self.change(&mut shown, sandbox, wanted) {
            shown.remove(&sandbox.id);
            let doing = format!("show cAdvisor the network of pod {}", sandbox.id);
            crate::log::warning(&error.doing(doing).chain());
        }
    }

    fn change(
        &self,
        shown: &mut BTreeMap<String, i32>,
        sandbox: &Sandbox,
        wanted: Option<i32>,
    ) -> Result<()> {
        let marker = self.marker(sandbox)?;
        if shown.remove(&sandbox.id).is_some() {
            marker.remove();
        }
        let Some(pid) = wanted else { return Ok(()) };
        // Before the cgroup exists: cAdvisor asks at once, and never again.
        shown.insert(sandbox.id.clone(), pid);
        marker.make()
    }

    /// Whether a pod gets such a cgroup.
    fn marks(&self, sandbox: &Sandbox) -> bool {
        let scopes = &sandbox.request.namespaces;
        self.host.settings.serves_cadvisor && scopes.network == Scope::Pod && scopes.pid != Scope::Pod
    }

    fn marker(&self, sandbox: &Sandbox) -> Result<Marker> {
        let path = self.host.cgroup_path(sandbox.request.cgroup_parent.as_deref(), &sandbox.id);
        let driver = if self.host.settings.systemd_cgroup { Driver::Systemd } else { Driver::Cgroupfs };
        Marker::new(&path, &ContainerId::parse(&sandbox.id)?, driver)
    }

    /// A pod or container by its whole id.
    ///
    /// # Errors
    /// `NotFound`
    pub(super) fn record(&self, id: &str) -> Result<Record> {
        if let Some(container) = self.containers.by_id(id) {
            return Ok(of_container(&container));
        }
        let (config, created_ns) = match self.sandboxes.by_id(id) {
            Some(sandbox) => (sandbox.config.clone(), sandbox.created_ns()),
            // The cgroup of its init process exists before the pod does.
            None => (self.sandboxes.starting(id).ok_or_else(|| not_found(id))?, super::now_ns()),
        };
        Ok(Record { labels: config.labels, image: PAUSE.to_owned(), created_ns, is_sandbox: true })
    }

    /// The process of a pod or container by its whole id.
    ///
    /// # Errors
    /// `NotFound` when there is none, or none yet.
    pub(super) fn task(&self, id: &str) -> Result<Task> {
        if let Some(container) = self.containers.by_id(id) {
            let (state, code) = container.exit();
            return match state {
                State::Exited | State::Gone => Ok(Task::Stopped { exit_code: code.cast_unsigned() }),
                State::Created | State::Starting | State::Running => self.running(id),
            };
        }
        let Some(sandbox) = self.sandboxes.by_id(id) else { return self.running(id) };
        if sandbox.request.namespaces.pid == Scope::Pod {
            return self.running(id).or(Ok(Task::Stopped { exit_code: 0 }));
        }
        // A pod without one is about to lose its cgroup.
        let pid = self.shown().get(id).and_then(|pid| u32::try_from(*pid).ok());
        Ok(pid.map_or(Task::Stopped { exit_code: 0 }, |pid| Task::Running { pid }))
    }

    fn running(&self, id: &str) -> Result<Task> {
        let pid = self.host.init_pid(id).ok().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
        pid.map(|pid| Task::Running { pid }).ok_or_else(|| not_found(id))
    }

    /// No code that may panic runs under the lock, so a poisoned one guards an intact value.
    fn shown(&self) -> MutexGuard<'_, BTreeMap<String, i32>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(id: &str) -> Error {
    Error::new(Kind::NotFound, format!("there is no pod or container {id} with a process"))
}

fn of_container(container: &Container) -> Record {
    let life = container.life();
    Record {
        labels: life.config.labels.clone(),
        image: image_name(life.config.image.as_ref(), &life.record),
        created_ns: life.record.created_ns,
        is_sandbox: false,
    }
}

/// The name of a container's image with its registry and tag, as containerd has it; the reference with the digest, or the
/// id, if kubelet did not pass on a name.
pub(super) fn image_name(image: Option<&v1::ImageSpec>, record: &ContainerRecord) -> String {
    let names = image.map(|image| [&image.user_specified_image, &image.image]);
    let names = names.into_iter().flatten().filter(|name| !name.is_empty());
    // kubelet names an image by its id.
    let is_id = |name: &str| name.starts_with("sha256:") || *name == *record.image_id;
    let named = names.filter(|name| !is_id(name)).find_map(|name| Reference::parse(name).ok());
    named.map_or_else(|| record.image_ref.clone(), |reference| reference.to_string())
}
