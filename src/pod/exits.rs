//! Hearing of containers that end: a thread that asks the keeper, and sleeps until it says something.

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::Pods;
use super::container::Container;
use super::machine::{Event, State};
use crate::error::{Doing, Kind, Result};
use crate::id::ContainerId;
use crate::keeper::client::{Client, Watch};
use crate::oci::{Runtime, delete, kill};
use crate::record::{Exit, Layout};

/// How long is waited before a keeper that cannot be reached is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Starts the thread. It holds no pods: when they are gone, so is it at the next thing it hears.
pub(super) fn start(pods: &Arc<Pods>) -> Result<()> {
    // Before anybody can be told of a pod: what ended while nobody listened is known then.
    let watch = pods.catch_up()?;
    let weak = Arc::downgrade(pods);
    let thread = std::thread::Builder::new().name("exits".to_owned()).stack_size(256 << 10);
    thread.spawn(move || listen(&weak, watch)).map(drop).doing(|| "start a thread")
}

fn listen(pods: &Weak<Pods>, first: Watch) {
    let mut watch = Some(first);
    loop {
        let heard = watch.as_ref().map(Watch::next);
        let Some(pods) = pods.upgrade() else { return };
        match heard {
            Some(Ok((id, exit))) => pods.heard(&id, exit),
            // The keeper is another one now, or found us too slow: what was missed is looked for.
            Some(Err(_)) | None => {
                watch = pods.catch_up().map_err(|error| crate::log::warning(&error.chain())).ok();
                if watch.is_none() {
                    std::thread::sleep(PAUSE);
                }
            }
        }
    }
}

/// What a container that has ended leaves: whoever removes it does the same.
fn clean_up(runtime: &Runtime, id: &ContainerId) -> Result<()> {
    // In a PID namespace that is not its own it may leave processes behind.
    let _ = kill::kill_at_once(runtime, id, libc::SIGKILL, true);
    match delete::delete(runtime, id, true) {
        // Whoever removes the container meanwhile does it.
        Err(e) if e.kind() == Kind::NotFound => Ok(()),
        other => other,
    }
}

impl Pods {
    /// Connects to the keeper, and looks for containers that have ended unheard.
    fn catch_up(&self) -> Result<Watch> {
        let run = &self.settings.run;
        let watch = Client::connect_or_start(run)?.watch()?;
        // Only now, for what ends from here on is told. And before the keeper is asked, for it may have a container that
        // runs by the time of its answer: one that ran before, and that it does not have, has ended.
        let containers: Vec<_> = self.table().containers.values().cloned().collect();
        let ran: Vec<_> = containers.into_iter().filter(|c| c.state() == State::Running).collect();
        let pods: Vec<_> = self.table().sandboxes.values().cloned().collect();
        let with_process: Vec<_> = pods.into_iter().filter(|pod| pod.namespace("pid").is_some()).collect();
        let kept = Client::ask_any(run, Client::list)?;
        let is_kept = |wanted: &str| kept.iter().any(|(id, _)| id == wanted);
        for container in ran.iter().filter(|container| !is_kept(&container.id)) {
            self.heard(&container.id, self.exit_on_disk(&container.id)?);
        }
        for pod in with_process.iter().filter(|pod| !is_kept(&pod.id)) {
            self.heard(&pod.id, Exit::unknown());
        }
        Ok(watch)
    }

    /// Looks whether a container that was just started has ended while it was not yet known to run: had its keeper been
    /// killed then, nobody would tell of it any more.
    pub(super) fn look_for_end(&self, container: &Container) {
        let ended = ContainerId::parse(&container.id)
            .is_ok_and(|id| Layout::new(&self.settings.root, &id).exit().exists());
        if ended && container.state() == State::Running {
            match self.exit_on_disk(&container.id) {
                Ok(exit) => self.heard(&container.id, exit),
                Err(error) => crate::log::warning(&error.chain()),
            }
        }
    }

    /// What the keeper wrote when a container ended; unknown when it did not.
    ///
    /// # Errors
    /// `Unsupported` when a keeper of another release wrote it: then it stays, and the container with it.
    fn exit_on_disk(&self, id: &str) -> Result<Exit> {
        let Ok(id) = ContainerId::parse(id) else { return Ok(Exit::unknown()) };
        match Exit::load(&Layout::new(&self.settings.root, &id)) {
            Err(error) if error.kind() == Kind::Unsupported => Err(error),
            other => Ok(other.ok().flatten().unwrap_or_else(Exit::unknown)),
        }
    }

    /// Something that the keeper had has ended.
    fn heard(&self, id: &str, exit: Exit) {
        let (container, sandbox) = {
            let table = self.table();
            (table.containers.get(id).cloned(), table.sandboxes.get(id).cloned())
        };
        let done = match (container, sandbox) {
            (Some(container), _) => self.container_ended(&container, exit),
            (None, Some(sandbox)) => sandbox.lost_its_process(),
            // Of `coracle launch`, or of a pod that is being made or removed.
            (None, None) => Ok(()),
        };
        if let Err(error) = done {
            crate::log::warning(&error.doing(format!("note the end of {id}")).chain());
        }
    }

    fn container_ended(&self, container: &Arc<Container>, exit: Exit) -> Result<()> {
        let id = ContainerId::parse(&container.id)?;
        container.ended(exit)?;
        let runtime = self.runtime();
        // Elsewhere: a process that does not die, or a hook, keeps nobody from hearing of the next end.
        let thread = std::thread::Builder::new().name("clean-up".to_owned()).stack_size(256 << 10);
        let work = move || {
            if let Err(error) = clean_up(&runtime, &id) {
                crate::log::warning(&error.doing(format!("take down what {id} leaves")).chain());
            }
        };
        thread.spawn(work).map(drop).doing(|| "start a thread")
    }

    /// A container that the keeper has, although nobody remembers having started it: its daemon was killed in between.
    pub(super) fn adopt(&self, container: &Container) -> Result<()> {
        // 0 when there is none.
        let ended = self.exit_on_disk(&container.id)?.at_ns;
        container.apply(Event::Started, |record| {
            record.was_started();
            if ended > 0 {
                record.started_ns = record.started_ns.min(ended);
            }
        })
    }
}
