//! Runs containers, and the init process of a pod that shares its PID namespace, as children of the keeper.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use oci_spec::runtime::{Process, Spec};

use super::abort::{Abort, Abortable};
use super::host::Host;
use crate::error::{Kind, Result};
use crate::id::ContainerId;
use crate::keeper::Order;
use crate::keeper::client::{Client, KeeperSpawner};
use crate::oci::create::CreateOptions;
use crate::oci::{foreground, run};

/// How many attempts a start gets when the keeper dies each time before it has taken over the container.
const TRIES: u32 = 5;

impl Host {
    /// Retries a start when the keeper dies before it has taken over the container. The program has not been executed then,
    /// so a second attempt is safe.
    ///
    /// # Errors
    /// Those of `start`.
    pub(super) fn retry_until_kept(
        &self,
        id: &str,
        abort: &Abort,
        start: impl Fn() -> Result<()>,
    ) -> Result<()> {
        for _ in 1..TRIES {
            match start() {
                Err(error) if error.kind() == Kind::Unreachable && !abort.is_fired() => {
                    crate::log::warning(&error.doing(format!("start {id} again")).chain());
                }
                other => return other,
            }
            // The next attempt must find nothing left of this one.
            Client::ask_any(&self.settings.run, |keeper| keeper.settle(id))?;
        }
        start()
    }

    /// Runs a container as a child of the keeper. Sets the exit file of `order`; `abort` can cancel the start.
    ///
    /// # Errors
    /// Why the container cannot run; nothing is left of it then. `Unreachable` when the keeper died before it had taken over
    /// the container.
    pub(super) fn run_in_keeper(
        &self,
        id: &str,
        spec: &Spec,
        root: Option<OwnedFd>,
        order: Order,
        abort: &Arc<Abort>,
    ) -> Result<()> {
        let id = ContainerId::parse(id)?;
        let tty = spec.process().as_ref().and_then(Process::terminal).unwrap_or(false);
        let (ours, theirs) =
            if tty { foreground::console_pair().map(|(o, t)| (Some(o), Some(t)))? } else { (None, None) };
        let layout = self.layout(&id);
        let order = Order { exit_file: Some(layout.exit()), ..order };
        let keeper = Client::connect_or_start(&self.settings.run)?;
        let spawner = Rc::new(KeeperSpawner::new(keeper, order, ours));
        let create = CreateOptions {
            bundle: layout.directory().to_owned(),
            root: root.map(Arc::new),
            in_pod: true,
            parent: Some(Rc::new(Abortable { spawner: Rc::clone(&spawner), abort: Arc::clone(abort) })),
            ..CreateOptions::default()
        };
        match run::run_in_keeper(&self.runtime(), &id, spec, &create, theirs) {
            Ok(()) => spawner.keep(),
            Err(error) => {
                spawner.give_up();
                Err(error)
            }
        }
    }
}
