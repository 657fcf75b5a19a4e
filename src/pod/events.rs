//! GetContainerEvents: announces each change of a pod or container once, and in the order of its life.
//!
//! Several threads report changes of one container: the call that starts it, and the thread that receives exits. So nobody
//! announces "this happened". Whoever has changed something asks for an announcement, and what is announced follows from
//! the state: all that has happened and was not announced before. This and the snapshot are made under one lock, so that a
//! later event never has an older state.

use std::sync::{Arc, Mutex, PoisonError};

use coracle_cri::EventHub;
use coracle_cri::v1;

use super::container::{Container, Containers};
use super::happened::Happened;
use super::now_ns;
use super::sandbox::{Sandbox, Sandboxes};

/// Announces changes to the listeners.
#[derive(Debug)]
pub(super) struct Events {
    pub(super) hub: Arc<EventHub>,
    sandboxes: Arc<Sandboxes>,
    containers: Arc<Containers>,
    /// The time of the last event, in nanoseconds since 1970. Locked from the snapshot to the publication.
    last_ns: Mutex<i64>,
}

impl Events {
    pub(super) fn new(sandboxes: Arc<Sandboxes>, containers: Arc<Containers>) -> Self {
        Self { hub: Arc::default(), sandboxes, containers, last_ns: Mutex::default() }
    }

    /// Announces what has happened to a container.
    pub(super) fn of_container(&self, container: &Container) {
        let sandbox = || self.sandboxes.by_id(&container.pod);
        self.announce(&container.id, &container.pod, || container.announce(), sandbox);
    }

    /// Announces what has happened to a pod.
    pub(super) fn of_sandbox(&self, sandbox: &Arc<Sandbox>) {
        let own = || Some(Arc::clone(sandbox));
        self.announce(&sandbox.id, &sandbox.id, || sandbox.announce(), own);
    }

    /// `announce` returns what has happened and what was announced before, and records the former as announced.
    fn announce(
        &self,
        id: &str,
        pod: &str,
        announce: impl FnOnce() -> (Happened, Happened),
        sandbox: impl FnOnce() -> Option<Arc<Sandbox>>,
    ) {
        // No code that may panic runs under the lock, so a poisoned one guards an intact value.
        let mut last_ns = self.last_ns.lock().unwrap_or_else(PoisonError::into_inner);
        let (now, before) = announce();
        if now == before || !self.hub.has_listeners() {
            return;
        }
        let mut containers = self.containers.in_pod(pod);
        containers.retain(|container| !container.is_removed());
        let containers = containers.iter().map(|container| container.status()).collect();
        let mut event = v1::ContainerEventResponse {
            container_id: id.to_owned(),
            pod_sandbox_status: sandbox().map(|sandbox| sandbox.status()),
            containers_statuses: containers,
            ..Default::default()
        };
        for kind in now.since(before) {
            // Always later than the last one, even if the clock is set back: kubelet drops events that are older than what
            // it knows.
            *last_ns = now_ns().max(*last_ns + 1);
            event.created_at = *last_ns;
            event.set_container_event_type(kind);
            if self.hub.publish(&event) > 0 {
                crate::log::warning("a client of GetContainerEvents reads too slowly; its stream was ended");
            }
        }
    }
}
