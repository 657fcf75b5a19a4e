//! The verbose information of ContainerStatus, with the names that containerd gives it: `crictl inspect` and the templates of
//! other tools read them.

use serde_json::{Value, json};

use super::{Container, Containers};
use crate::id::ContainerId;
use crate::pod::machine::State;

/// The file that keeps the OCI spec of a container that has exited.
const SPEC: &str = "spec";

impl Containers {
    /// What `crictl inspect` shows as `info`.
    pub(super) fn info(&self, container: &Container) -> Value {
        let spec = self.spec(container);
        let life = container.life();
        let pid = match life.record.state {
            State::Running => self.host.init_pid(&container.id).unwrap_or(0),
            State::Created | State::Starting | State::Exited | State::Gone => 0,
        };
        json!({
            "sandboxID": container.pod,
            "pid": pid,
            "removing": life.record.state == State::Gone,
            "snapshotKey": container.id,
            "snapshotter": "overlayfs",
            "runtimeType": "coracle",
            "runtimeOptions": { "SystemdCgroup": self.host.settings.systemd_cgroup },
            "config": life.config,
            "runtimeSpec": spec,
            "directory": container.directory.path(),
            "record": life.record,
        })
    }

    /// The PID of the init process of a running container in this pod: of the one that was created first.
    pub(in crate::pod) fn pid_in(&self, pod: &str) -> Option<i32> {
        self.pids_in(pod).first().copied()
    }

    /// The PIDs of the init processes of all running containers in this pod, in the order of their creation.
    pub(in crate::pod) fn pids_in(&self, pod: &str) -> Vec<i32> {
        let mut running: Vec<_> = self.in_pod(pod);
        running.retain(|container| container.state() == State::Running);
        running.sort_by_key(|container| container.life().record.created_ns);
        running.iter().filter_map(|container| self.host.init_pid(&container.id).ok()).collect()
    }

    /// The OCI spec of a container; none if an earlier daemon created the container and it was not started.
    fn spec(&self, container: &Container) -> Option<Value> {
        if let Some(prepared) = &container.life().prepared {
            return serde_json::to_value(&prepared.spec).ok();
        }
        let id = ContainerId::parse(&container.id).ok()?;
        let files = [self.host.layout(&id).config(), container.directory.join(SPEC)];
        let text = files.iter().find_map(|path| std::fs::read(path).ok())?;
        serde_json::from_slice(&text).ok()
    }

    /// Keeps the OCI spec of a container that has exited, before the OCI state is removed.
    pub(super) fn keep_spec(&self, container: &Container, id: &ContainerId) {
        let life = container.life();
        // Nothing may be written to the directory of a container that is being removed.
        if life.record.state == State::Exited {
            // Without it, only this part of the verbose information is missing.
            let _ = std::fs::rename(self.host.layout(id).config(), container.directory.join(SPEC));
        }
    }
}
