//! StartContainer.

use std::sync::Arc;

use super::{Container, Containers, Prepared, START_ERROR};
use crate::error::{Error, Kind, Result};
use crate::keeper::{Order, Stdin};
use crate::pod::abort::Abort;
use crate::pod::machine::{Event, State};
use crate::pod::records::ContainerRecord;
use crate::pod::sandbox::Sandbox;
use crate::pod::{files, now_ns};

impl Containers {
    /// Starts a created container of `sandbox`. When the start fails, the container becomes exited, with the reason in its
    /// status.
    ///
    /// # Errors
    /// `WrongState` when the container or the pod is in another state, or why its process cannot run.
    pub(in crate::pod) fn start(&self, sandbox: &Sandbox, container: &Arc<Container>) -> Result<()> {
        // StopPodSandbox from here on finds a container in the state `Starting`, and aborts the start.
        let abort = sandbox.while_ready(|| container.begin_start())?;
        let try_start = || self.try_start(sandbox, container, &abort);
        match self.host.retry_until_kept(&container.id, &abort, try_start) {
            Ok(()) => {
                // The program runs. Without the record, the next daemon asks the keeper.
                if let Err(error) = container.apply(Event::Started, ContainerRecord::set_started) {
                    let doing = format!("record the start of container {}", container.id);
                    crate::log::warning(&error.doing(doing).chain());
                }
                self.record_early_exit(container);
                Ok(())
            }
            // The keeper has reported its exit, so the container was started and only the keeper's response was lost.
            Err(_) if container.state() == State::Exited => {
                container.apply(Event::Started, ContainerRecord::set_started)
            }
            Err(error) => {
                // It may have run for a moment before the start failed.
                let recorded = container.apply(Event::Failed, |record| {
                    record.finished_ns = now_ns();
                    (record.exit_code, record.reason) = (START_ERROR.0, START_ERROR.1.to_owned());
                    record.message = error.chain();
                });
                recorded.and(Err(error))
            }
        }
    }

    fn try_start(&self, sandbox: &Sandbox, container: &Arc<Container>, abort: &Arc<Abort>) -> Result<()> {
        let (config, request, prepared) = {
            let mut life = container.life();
            (life.config.clone(), life.request.clone(), life.prepared.take())
        };
        // The request is gone if the keeper has reported a start or an exit in the meantime.
        let request = request.ok_or_else(|| {
            Error::new(Kind::WrongState, format!("container {} is not being started", container.id))
        })?;
        let prepared = match prepared {
            Some(prepared) => *prepared,
            // An earlier daemon created the container, or an earlier attempt has used what was prepared.
            None => {
                let image = self.image_of(&config)?;
                self.prepare(&container.id, sandbox, &image, &request.container)?
            }
        };
        let Prepared { spec, root } = prepared;
        let log = request.log_path.as_deref();
        let log = log.map(|path| files::log(sandbox.log_directory(), path)).transpose()?;
        let order = Order {
            id: container.id.clone(),
            log,
            stdin: match (request.stdin, request.stdin_once) {
                (false, _) => Stdin::None,
                (true, false) => Stdin::Open,
                (true, true) => Stdin::Once,
            },
            ..Order::default()
        };
        self.host.run_in_keeper(&container.id, &spec, Some(root), order, abort)
    }
}

impl Container {
    /// Sets the state `Starting` and returns what aborts the start.
    fn begin_start(&self) -> Result<Arc<Abort>> {
        let mut life = self.life();
        let before = life.record.state;
        if let Err(error) = self.apply_to(&mut life, Event::Start, |_| ()) {
            // The record could not be written: nothing was started.
            life.record.state = before;
            self.changed.notify_all();
            return Err(error);
        }
        let abort = Arc::<Abort>::default();
        life.start = Some(Arc::clone(&abort));
        Ok(abort)
    }
}
