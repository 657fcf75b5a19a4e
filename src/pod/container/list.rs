//! ListContainers and ContainerStatus.

use std::collections::BTreeMap;

use coracle_cri::v1;

use super::{Container, Containers, Life};
use crate::error::Result;
use crate::pod::machine::State;
use crate::pod::request_from_cri::{in_force, signal_named};

fn state_of(state: State) -> i32 {
    match state {
        State::Created | State::Starting => v1::ContainerState::ContainerCreated,
        State::Running => v1::ContainerState::ContainerRunning,
        State::Exited | State::Gone => v1::ContainerState::ContainerExited,
    }
    .into()
}

impl Container {
    fn summary(&self) -> v1::Container {
        let life = self.life();
        v1::Container {
            id: self.id.clone(),
            pod_sandbox_id: self.pod.clone(),
            metadata: life.config.metadata.clone(),
            image: life.config.image.clone(),
            image_ref: life.record.image_id.clone(),
            state: state_of(life.record.state),
            created_at: life.record.created_ns,
            labels: life.config.labels.clone(),
            annotations: life.config.annotations.clone(),
            image_id: life.record.image_id.clone(),
        }
    }

    pub(in crate::pod) fn status(&self) -> v1::ContainerStatus {
        let life = self.life();
        let log_path = self.log_path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let Life { config, record, .. } = &*life;
        let limits = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        let limits = limits.map(|limits| in_force(limits, crate::cgroup::limits_swap()));
        let (uid, gid, groups) = &record.user;
        let stop_signal = match record.stop_signal.as_str() {
            "" => v1::Signal::Sigterm,
            name => signal_named(name),
        };
        v1::ContainerStatus {
            id: self.id.clone(),
            metadata: config.metadata.clone(),
            state: state_of(record.state),
            created_at: record.created_ns,
            started_at: record.started_ns,
            finished_at: record.finished_ns,
            exit_code: record.exit_code,
            image: config.image.as_ref().map(with_user_name),
            image_ref: record.image_ref.clone(),
            reason: record.reason.clone(),
            message: record.message.clone(),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            mounts: config.mounts.clone(),
            log_path,
            resources: Some(v1::ContainerResources {
                linux: Some(limits.unwrap_or_default()),
                windows: None,
            }),
            image_id: record.image_id.clone(),
            user: Some(v1::ContainerUser {
                linux: Some(v1::LinuxContainerUser {
                    uid: (*uid).into(),
                    gid: (*gid).into(),
                    supplemental_groups: groups.iter().map(|group| (*group).into()).collect(),
                }),
            }),
            stop_signal: stop_signal.into(),
        }
    }
}

/// The image with the name that the user wrote, where kubelet passes it on.
fn with_user_name(image: &v1::ImageSpec) -> v1::ImageSpec {
    let name = match image.user_specified_image.as_str() {
        "" => image.image.as_str(),
        name => name,
    };
    v1::ImageSpec { image: name.to_owned(), ..image.clone() }
}

impl Containers {
    /// All containers.
    pub(in crate::pod) fn list(&self) -> Vec<v1::Container> {
        self.table.lock().values().map(|container| container.summary()).collect()
    }

    /// The status of a container.
    ///
    /// # Errors
    /// `NotFound`
    pub(in crate::pod) fn status(&self, id: &str, verbose: bool) -> Result<v1::ContainerStatusResponse> {
        let container = self.get(id)?;
        let status = container.status();
        let mut info = BTreeMap::new();
        if verbose {
            info.insert("info".to_owned(), self.info(&container).to_string());
        }
        Ok(v1::ContainerStatusResponse { status: Some(status), info })
    }
}
