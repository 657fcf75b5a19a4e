//! Receives exits: a thread that blocks on the keeper's watch connection and records each exit.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::cadvisor::Cadvisor;
use super::container::Containers;
use super::events::Events;
use super::host::Host;
use super::machine::State;
use super::sandbox::Sandboxes;
use crate::error::{Doing, Result};
use crate::keeper::client::{Client, Watch};
use crate::record::Exit;

/// The delay before another attempt to reach a keeper that is unreachable.
const PAUSE: Duration = Duration::from_secs(1);

/// Records the exits of containers and of pods' init processes.
#[derive(Debug)]
pub(super) struct Exits {
    host: Arc<Host>,
    sandboxes: Arc<Sandboxes>,
    containers: Arc<Containers>,
    events: Arc<Events>,
    cadvisor: Arc<Cadvisor>,
}

impl Exits {
    /// Records what exited while no daemon listened, then starts the thread. The thread holds only a weak reference: once
    /// the returned one is dropped, it ends at the keeper's next message.
    ///
    /// # Errors
    /// The keeper cannot be reached, or no thread can be created.
    pub(super) fn start(
        host: Arc<Host>,
        sandboxes: Arc<Sandboxes>,
        containers: Arc<Containers>,
        (events, cadvisor): (Arc<Events>, Arc<Cadvisor>),
    ) -> Result<Arc<Self>> {
        let exits = Arc::new(Self { host, sandboxes, containers, events, cadvisor });
        // Before the first call is answered, so that no answer shows an exited container as running.
        let watch = exits.catch_up()?;
        let weak = Arc::downgrade(&exits);
        let thread = std::thread::Builder::new().name("exits".to_owned()).stack_size(256 << 10);
        thread.spawn(move || listen(&weak, watch)).doing(|| "start a thread")?;
        Ok(exits)
    }

    /// Connects to the keeper, and records exits that were not received.
    fn catch_up(&self) -> Result<Watch> {
        let run = &self.host.settings.run;
        let watch = Client::connect_or_start(run)?.watch()?;
        // After the connection, because the watch reports exits from there on. Before the keeper is asked for its list: a
        // container that was running before the list was made and is not in it has exited.
        let running: Vec<_> =
            self.containers.all().into_iter().filter(|c| c.state() == State::Running).collect();
        let with_init: Vec<_> =
            self.sandboxes.all().into_iter().filter(|pod| pod.namespace("pid").is_some()).collect();
        let kept = Client::ask_any(run, Client::list)?;
        let is_kept = |wanted: &str| kept.iter().any(|(id, _)| id == wanted);
        for container in running.iter().filter(|container| !is_kept(&container.id)) {
            self.record(&container.id, self.host.recorded_exit(&container.id)?);
        }
        for pod in with_init.iter().filter(|pod| !is_kept(&pod.id)) {
            self.record(&pod.id, Exit::unknown());
        }
        Ok(watch)
    }

    /// Records the exit of a container, or of a pod's init process. Other ids belong to `coracle launch`, or to a pod that is
    /// being created or removed.
    fn record(&self, id: &str, exit: Exit) {
        let recorded = if let Some(container) = self.containers.by_id(id) {
            let recorded = self.containers.record_exit(&container, exit);
            self.events.of_container(&container);
            if let Some(sandbox) = self.sandboxes.by_id(&container.pod) {
                self.cadvisor.refresh(&sandbox);
            }
            recorded
        } else if let Some(sandbox) = self.sandboxes.by_id(id) {
            // Without its init process, the PID namespace accepts no new process.
            let recorded = sandbox.set_not_ready();
            self.events.of_sandbox(&sandbox);
            recorded
        } else {
            Ok(())
        };
        if let Err(error) = recorded {
            crate::log::warning(&error.doing(format!("record the exit of {id}")).chain());
        }
    }
}

fn listen(exits: &Weak<Exits>, first: Watch) {
    let mut watch = Some(first);
    loop {
        let message = watch.as_ref().map(Watch::next);
        let Some(exits) = exits.upgrade() else { return };
        match message {
            Some(Ok((id, exit))) => exits.record(&id, exit),
            // The keeper was replaced, or closed the connection because this thread read too slowly.
            Some(Err(_)) | None => {
                watch = exits.catch_up().map_err(|error| crate::log::warning(&error.chain())).ok();
                if watch.is_none() {
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }
}
