//! Recovery at start-up: loads the records of pods and containers, and undoes interrupted operations.
//!
//! | the daemon was killed | left over | result |
//! |---|---|---|
//! | while a pod or container was created or removed | a directory without a record | removed |
//! | in a start, before the keeper had the container | `Starting`; the keeper does not list it | created, as if never started |
//! | in a start, before the process was released | `Starting`; the process ends, or is killed if it was stopped | created |
//! | in a start, after that | `Starting`; the keeper lists it, or there is an exit file | running, or exited with that exit |
//! | after a start | `Running`; the keeper lists it, or no longer does | running, or exited as its exit file says |
//! | in an ExecSync | a cgroup for the command in the container's cgroup | its processes are killed |
//! | after a container's exit was recorded | `Exited`; cgroup and OCI state | removed |
//!
//! The keeper answers `settle` only once the fate of a start is decided (`keeper::event_loop::life`).

use std::sync::Arc;

use coracle_cri::v1;

use super::container::{Container, Containers, EXEC_PREFIX};
use super::host::Host;
use super::machine::State;
use super::records::{ContainerRecord, Directory, SandboxRecord};
use super::request_from_cri::SandboxRequest;
use super::sandbox::{INTERFACE, Sandbox, Sandboxes};
use super::{files, requests, volumes};
use crate::cgroup::Group;
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::keeper::client::Client;
use crate::oci::delete;
use crate::record::ContainerState;
use crate::store::{POD_MARK, remove_container};

/// Fills the empty tables of pods and containers while the daemon starts.
#[derive(Debug)]
pub(super) struct Recovery<'a> {
    pub(super) host: &'a Host,
    pub(super) sandboxes: &'a Sandboxes,
    pub(super) containers: &'a Containers,
}

impl Recovery<'_> {
    /// Loads all records. What cannot be loaded or undone is logged, and the other pods are served all the same.
    ///
    /// # Errors
    /// `Unsupported` when another release wrote one of the records. Nothing is undone and the daemon does not serve then,
    /// because kubelet would take a pod that is not listed for one that is gone.
    pub(super) fn run(&self) -> Result<()> {
        self.host.directories.check_versions()?;
        for id in self.host.directories.all()? {
            let directory = self.host.directories.pod(&id);
            match load_sandbox(&directory) {
                Ok(Some((config, request, record))) => {
                    self.recover_sandbox(id, config, request, record, directory);
                }
                Ok(None) => log_error(self.undo_sandbox(&id, &directory)),
                Err(error) => {
                    log_error(Err(error));
                    log_error(self.undo_sandbox(&id, &directory));
                }
            }
        }
        self.remove_leftovers();
        let former = self.host.settings.run.join("cni");
        let moved = self.host.offer().cni.take_over(&former);
        log_error(moved.map_err(|e| e.doing("take over the records of attached networks")));
        let pods = self.sandboxes.all();
        let attached: Vec<_> = pods.iter().map(|pod| (pod.id.clone(), INTERFACE.to_owned())).collect();
        let collected = self.host.offer().cni.collect_garbage(&attached);
        log_error(collected.map_err(|e| e.doing("free the network resources of pods that are gone")));
        Ok(())
    }

    fn recover_sandbox(
        &self,
        id: String,
        config: v1::PodSandboxConfig,
        request: SandboxRequest,
        record: SandboxRecord,
        directory: Directory,
    ) {
        for container in directory.containers().unwrap_or_default() {
            let own = directory.container(&container);
            match own.load::<v1::ContainerConfig, ContainerRecord>() {
                Ok(Some(loaded)) => {
                    log_error(self.recover_container(container, &id, &request, loaded, own));
                }
                Ok(None) => log_error(self.undo_container(&container, &own)),
                Err(error) => {
                    log_error(Err(error));
                    log_error(self.undo_container(&container, &own));
                }
            }
        }
        self.sandboxes.insert(Sandbox::new(id, config, request, directory, record));
    }

    fn recover_container(
        &self,
        id: String,
        pod: &str,
        request: &SandboxRequest,
        (config, mut record): (v1::ContainerConfig, ContainerRecord),
        directory: Directory,
    ) -> Result<()> {
        let own = ContainerId::parse(&id)?;
        let was_starting = record.state == State::Starting;
        match record.state {
            // The daemon may have been killed between the record of the exit and the clean-up.
            State::Exited => log_error(delete::delete(&self.host.runtime(), &own, true)),
            State::Running => log_error(self.end_commands(&own)),
            // `recover_start` asks the keeper whether it got as far as running.
            State::Starting => record.state = State::Created,
            State::Created | State::Gone => {}
        }
        let request = requests::of_container(&directory, &config, request)?;
        let container = Container::new(id, pod.to_owned(), directory, config, request, record);
        let container = Arc::new(container);
        self.containers.insert(Arc::clone(&container));
        match was_starting {
            true => self.recover_start(&container, &own),
            false => Ok(()),
        }
    }

    /// Decides an interrupted start: either the program runs or has run, or what was made for the start is removed.
    fn recover_start(&self, container: &Container, id: &ContainerId) -> Result<()> {
        // A process that was still being set up has lost its parent: it either ends or executes its program. Wait for that.
        let is_kept = Client::ask_any(&self.host.settings.run, |keeper| keeper.settle(&container.id))?;
        match is_kept || self.host.layout(id).exit().exists() {
            true => self.containers.adopt(container),
            false => delete::delete(&self.host.runtime(), id, true),
        }
    }

    /// Kills the commands that ExecSync has left in a container: nobody waits for them any more.
    fn end_commands(&self, id: &ContainerId) -> Result<()> {
        let paths = match ContainerState::load(&self.host.layout(id)) {
            // The container has exited.
            Err(e) if e.kind() == Kind::NotFound => return Ok(()),
            other => other?.cgroup_paths,
        };
        for command in Group::from_paths(&paths)?.subgroups_by_prefix(EXEC_PREFIX)? {
            command.kill_and_remove()?;
        }
        Ok(())
    }

    /// Undoes a pod whose creation or removal was interrupted.
    fn undo_sandbox(&self, id: &str, directory: &Directory) -> Result<()> {
        for container in directory.containers()? {
            self.undo_container(&container, &directory.container(&container))?;
        }
        if ContainerId::parse(id).is_ok() {
            self.sandboxes.end_init(id)?;
            let attachment = crate::net::cni::Attachment {
                container: id.to_owned(),
                namespace: directory.join("net"),
                interface: INTERFACE.to_owned(),
                ..Default::default()
            };
            self.host.offer().cni.delete(&attachment)?;
        }
        files::remove(directory);
        directory.remove()
    }

    /// Undoes a container whose creation or removal was interrupted.
    fn undo_container(&self, id: &str, directory: &Directory) -> Result<()> {
        let own = ContainerId::parse(id)?;
        delete::delete(&self.host.runtime(), &own, true)?;
        volumes::unmount_all(directory.path());
        remove_container(&self.host.directories.layer(id))?;
        remove_container(&self.host.store.container_dir(&own))?;
        directory.remove()
    }

    /// Removes writable layers of containers that no longer exist: after a reboot, that is all of them.
    fn remove_leftovers(&self) {
        // An earlier daemon may have been killed before it had deleted the layers of removed containers.
        self.host.disposal.empty_trash();
        let Ok(entries) = std::fs::read_dir(self.host.store.root().join("containers")) else { return };
        let run = self.host.settings.run.as_os_str().as_encoded_bytes();
        for entry in entries.flatten() {
            let is_ours = std::fs::read(entry.path().join(POD_MARK)).is_ok_and(|owner| owner == run);
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_ours && self.containers.by_id(&name).is_none() {
                log_error(remove_container(&entry.path()));
            }
        }
    }
}

type LoadedSandbox = (v1::PodSandboxConfig, SandboxRequest, SandboxRecord);

/// None when the pod has no record.
fn load_sandbox(directory: &Directory) -> Result<Option<LoadedSandbox>> {
    let Some((config, record)) = directory.load::<v1::PodSandboxConfig, SandboxRecord>()? else {
        return Ok(None);
    };
    let request = requests::of_sandbox(directory, &config)?;
    Ok(Some((config, request, record)))
}

fn log_error(result: Result<(), Error>) {
    if let Err(error) = result {
        crate::log::warning(&error.chain());
    }
}
