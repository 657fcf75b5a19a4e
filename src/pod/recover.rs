//! After a restart: what is known of pods and containers is read, and work that was interrupted is undone.
//!
//! | the daemon was killed | what it left | what becomes of it |
//! |---|---|---|
//! | while a pod or container was made or removed | a directory without a record | undone |
//! | in a start, before the keeper had the container | `Starting`; the keeper has nothing | created, as if never started |
//! | in a start, before the process was let go on | `Starting`; the process ends, or is killed when it was stopped | created |
//! | in a start, after that | `Starting`; the keeper has the container, or an exit file is there | running, or exited as it did |
//! | after a start | `Running`; the keeper has it, or not any more | running, or exited as its exit file says |
//! | in an ExecSync | a cgroup of the command in the container's | its processes are killed |
//! | after a container's end was noted | `Exited`; cgroup and OCI state | removed |
//!
//! What the keeper knows of a start it says only once that is decided (`keeper::event_loop::life`).

use std::sync::Arc;

use coracle_cri::v1;

use super::container::Container;
use super::machine::State;
use super::records::{ContainerRecord, Directory, SandboxRecord};
use super::request_from_cri::SandboxRequest;
use super::sandbox::Sandbox;
use super::{Pods, files, requests, volumes};
use crate::cgroup::Group;
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::keeper::client::Client;
use crate::oci::delete;
use crate::record::ContainerState;
use crate::store::remove_container;

/// A pod's interface and id, as the network knows it.
type Attached = (String, String);

impl Pods {
    /// Reads everything. What cannot be read or undone is said in the log: the other pods are served all the same.
    ///
    /// # Errors
    /// `Unsupported` when another release wrote one of the records: nothing is undone, and nobody is served, for whoever
    /// asked would take the pod for one that is gone.
    pub(super) fn recover(&self) -> Result<()> {
        self.directories.check_versions()?;
        for id in self.directories.all()? {
            let directory = self.directories.pod(&id);
            match directory.load::<v1::PodSandboxConfig, SandboxRecord>() {
                Ok(Some((config, record))) => match requests::of_sandbox(&directory, &config) {
                    Ok(request) => self.recover_sandbox(id, config, request, record, directory),
                    Err(error) => {
                        complain(Err(error));
                        complain(self.undo_sandbox(&id, &directory));
                    }
                },
                Ok(None) => complain(self.undo_sandbox(&id, &directory)),
                Err(error) => {
                    complain(Err(error));
                    complain(self.undo_sandbox(&id, &directory));
                }
            }
        }
        self.remove_leftovers();
        let alive: Vec<Attached> = {
            let table = self.table();
            table.sandboxes.keys().map(|id| (id.clone(), super::sandbox::INTERFACE.to_owned())).collect()
        };
        complain(
            self.offer().cni.collect_garbage(&alive).map_err(|e| e.doing("free what pods that are gone had")),
        );
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
            let its = directory.container(&container);
            match its.load::<v1::ContainerConfig, ContainerRecord>() {
                Ok(Some(found)) => {
                    complain(self.recover_container(container, &id, &request, found, its));
                }
                Ok(None) => complain(self.undo_container(&container, &its)),
                Err(error) => {
                    complain(Err(error));
                    complain(self.undo_container(&container, &its));
                }
            }
        }
        let sandbox = Sandbox::new(id.clone(), config, request, directory, record);
        self.table().sandboxes.insert(id, Arc::new(sandbox));
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
        if record.state == State::Exited {
            // Its end was noted, and perhaps no more.
            complain(delete::delete(&self.runtime(), &own, true));
        }
        if record.state == State::Running {
            complain(self.end_commands(&own));
        }
        if was_starting {
            // Whether it got as far as running, the keeper knows; else it is as if its start had never been tried.
            record.state = State::Created;
        }
        let request = requests::of_container(&directory, &config, request)?;
        let container = Container::new(id.clone(), pod.to_owned(), directory, config, request, record);
        let container = Arc::new(container);
        self.table().containers.insert(id, Arc::clone(&container));
        match was_starting {
            true => self.recover_start(&container, &own),
            false => Ok(()),
        }
    }

    /// A start that was interrupted: its program runs or has run, or there is nothing of it.
    fn recover_start(&self, container: &Container, id: &ContainerId) -> Result<()> {
        // A process that is still set up, which nobody attends any more, ends or executes its program: that is waited for.
        let settled = Client::ask_any(&self.settings.run, |keeper| keeper.settle(&container.id))?;
        let has_ended = crate::record::Layout::new(&self.settings.root, id).exit().exists();
        match settled || has_ended {
            true => self.adopt(container),
            false => delete::delete(&self.runtime(), id, true),
        }
    }

    /// Ends what ExecSync has left in a container: nobody waits for these commands any more.
    fn end_commands(&self, id: &ContainerId) -> Result<()> {
        let paths = match ContainerState::load(&crate::record::Layout::new(&self.settings.root, id)) {
            // It has ended.
            Err(e) if e.kind() == Kind::NotFound => return Ok(()),
            other => other?.cgroup_paths,
        };
        for command in Group::from_paths(&paths)?.subgroups_by_prefix(super::container::PREFIX)? {
            command.kill_and_remove()?;
        }
        Ok(())
    }

    /// Undoes a pod that was being made or removed.
    fn undo_sandbox(&self, id: &str, directory: &Directory) -> Result<()> {
        for container in directory.containers()? {
            self.undo_container(&container, &directory.container(&container))?;
        }
        if ContainerId::parse(id).is_ok() {
            self.end_first_process(id)?;
            let attached = crate::net::cni::Attachment {
                container: id.to_owned(),
                namespace: directory.join("net"),
                interface: super::sandbox::INTERFACE.to_owned(),
                ..Default::default()
            };
            self.offer().cni.delete(&attached)?;
        }
        files::remove(directory);
        directory.remove()
    }

    /// Undoes a container that was being made or removed.
    fn undo_container(&self, id: &str, directory: &Directory) -> Result<()> {
        let own = ContainerId::parse(id)?;
        delete::delete(&self.runtime(), &own, true)?;
        volumes::unmount_all(directory.path());
        remove_container(&self.directories.layer(id))?;
        remove_container(&self.store.container_dir(&own))?;
        directory.remove()
    }

    /// Removes writable layers of containers that are no more: after a reboot that is all of them.
    fn remove_leftovers(&self) {
        let Ok(entries) = std::fs::read_dir(self.store.root().join("containers")) else { return };
        let run = self.settings.run.as_os_str().as_encoded_bytes();
        for entry in entries.flatten() {
            let mark = entry.path().join(super::container::MARK);
            let is_ours = std::fs::read(mark).is_ok_and(|of| of == run);
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_ours && !self.table().containers.contains_key(&name) {
                complain(remove_container(&entry.path()));
            }
        }
    }
}

/// Says an error in the log.
fn complain(result: Result<(), Error>) {
    if let Err(error) = result {
        crate::log::warning(&error.chain());
    }
}
