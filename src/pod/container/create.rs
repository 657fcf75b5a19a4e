//! CreateContainer: everything except the process.

use std::sync::Arc;

use coracle_cri::v1;

use super::{Container, Containers, Prepared};
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::linux::private;
use crate::pod::machine::State;
use crate::pod::records::ContainerRecord;
use crate::pod::request_from_cri::CreateRequest;
use crate::pod::sandbox::Sandbox;
use crate::pod::{files, new_id, now_ns, requests, volumes};
use crate::store::{ImageRecord, POD_MARK, remove_container};
use crate::undo::Undo;

impl Containers {
    /// Creates a container and returns its id. A retry returns the container that the first call created: that call may have
    /// finished after kubelet had given up on it.
    ///
    /// # Errors
    /// `Invalid` for a contradictory configuration, `NotFound` if the image is not stored, `WrongState` in a pod that is not
    /// ready, `Exists` if the pod has another container of that name, or the reason why something that the configuration
    /// requests is not available. Nothing is left behind then.
    pub(in crate::pod) fn create(&self, sandbox: &Sandbox, config: &v1::ContainerConfig) -> Result<String> {
        let request = CreateRequest::from_cri(config, &sandbox.request)?;
        let _creating = sandbox.begin_create()?;
        if let Some(id) = self.same_container(sandbox, config)? {
            return Ok(id);
        }
        let id = new_id()?;
        let mut undo = Undo::new();
        let container = self.make_container(&id, sandbox, config, request, &mut undo)?;
        {
            // Lock order: a table before a pod's record.
            let mut table = self.table.lock();
            sandbox.while_ready(|| Ok(table.insert(id.clone(), Arc::new(container))))?;
        }
        undo.disarm();
        Ok(id)
    }

    /// The container that an earlier call with the same configuration created, if any.
    fn same_container(&self, sandbox: &Sandbox, config: &v1::ContainerConfig) -> Result<Option<String>> {
        let in_pod = self.in_pod(&sandbox.id);
        let named = in_pod.into_iter().find(|c| c.life().config.metadata == config.metadata);
        let Some(container) = named else { return Ok(None) };
        let life = container.life();
        if life.record.state == State::Created && life.config == *config {
            return Ok(Some(container.id.clone()));
        }
        let name = config.metadata.as_ref().map(|m| m.name.as_str()).unwrap_or_default();
        let what = format!("container {name:?} of the same attempt is there already: {}", container.id);
        Err(Error::new(Kind::Exists, what).hint("remove it, or count the attempt up"))
    }

    fn make_container(
        &self,
        id: &str,
        sandbox: &Sandbox,
        config: &v1::ContainerConfig,
        request: CreateRequest,
        undo: &mut Undo,
    ) -> Result<Container> {
        let image = self.image_of(config)?;
        let stored = self.host.store.container_dir(&ContainerId::parse(id)?);
        let directory = sandbox.directory.container(id);
        undo.push("container", {
            let (directory, layer) = (directory.clone(), self.host.directories.layer(id));
            move || {
                volumes::unmount_all(directory.path());
                let removed = [remove_container(&layer), remove_container(&stored), directory.remove()];
                for error in removed.into_iter().filter_map(Result::err) {
                    crate::log::warning(&error.chain());
                }
            }
        });
        // First, because the next daemon finds an interrupted creation by this directory.
        directory.make()?;
        self.hold(id, &image)?;
        directory.save_config(config)?;
        requests::save(&directory, &request)?;
        if let Some(path) = &request.log_path {
            files::make_log_directories(sandbox.log_directory(), path)?;
        }
        let prepared = self.prepare(id, sandbox, &image, &request.container)?;
        let record = record_of(&image, &prepared, request.stop_signal.as_deref(), &self.host.store)?;
        directory.save(&record)?;
        let container =
            Container::new(id.to_owned(), sandbox.id.clone(), directory, config.clone(), request, record);
        container.life().prepared = Some(Box::new(prepared));
        Ok(container)
    }

    /// The image of a container, which kubelet names by PullImage's response or by a reference.
    pub(super) fn image_of(&self, config: &v1::ContainerConfig) -> Result<ImageRecord> {
        let name = config.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default();
        self.host.store.find(name).map_err(|e| match e.kind() {
            Kind::NotFound => {
                Error::new(Kind::NotFound, format!("image {name:?} is not here: pull it first"))
            }
            _ => e,
        })
    }

    /// Protects the image from removal, and marks the container's directory in the store so that the daemon can remove it
    /// after a reboot.
    fn hold(&self, id: &str, image: &ImageRecord) -> Result<()> {
        use crate::error::Doing;
        let hold = self.host.store.hold(image, id)?;
        let mark = hold.directory().join(POD_MARK);
        let text = self.host.settings.run.as_os_str().as_encoded_bytes();
        private::write(&mark, text, private::FILE).doing(|| format!("write {}", mark.display()))
    }
}

fn record_of(
    image: &ImageRecord,
    prepared: &Prepared,
    requested_signal: Option<&str>,
    store: &crate::store::Store,
) -> Result<ContainerRecord> {
    let configured = store.config(image)?.config().as_ref().and_then(|config| config.stop_signal().clone());
    let signal = requested_signal.map(str::to_owned).or(configured);
    let user = prepared.spec.process().as_ref().map(|process| process.user().clone()).unwrap_or_default();
    let others = user.additional_gids().clone().unwrap_or_default();
    Ok(ContainerRecord {
        state: State::Created,
        image_id: image.id.to_string(),
        image_ref: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.to_string()),
        stop_signal: signal.unwrap_or_default(),
        user: (user.uid(), user.gid(), others),
        created_ns: now_ns(),
        started_ns: 0,
        finished_ns: 0,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
    })
}
