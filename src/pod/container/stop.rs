//! StopContainer: a signal that asks, then one that does not.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use coracle_cri::Call;

use super::Container;
use crate::cgroup::Group;
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::oci::kill;
use crate::pod::Pods;
use crate::pod::machine::State;

/// How long a killed container may take to die.
const LAST: Duration = Duration::from_secs(30);

/// The longest grace: waiting longer is waiting for ever.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How long a start that is under way may take to come to its end, when there is a grace: then the program is asked, too.
const START_PATIENCE: Duration = Duration::from_secs(1);

/// How often it is looked whether anybody still waits for the answer.
const LOOK: Duration = Duration::from_secs(1);

impl Pods {
    /// Ends a container: its stop signal, `grace`, then SIGKILL; at once when `grace` is zero. A second call with a shorter
    /// grace shortens the wait of the first. One that does not exist or has exited is no error, and one that is being
    /// started ends with its start.
    ///
    /// # Errors
    /// `TimedOut` when not even a kill ends it; `Cancelled` when nobody waits any more.
    pub(in crate::pod) fn stop(&self, id: &str, grace: Duration, call: &Call) -> Result<()> {
        match self.find_container(id)? {
            Some(container) => self.end(&container, grace, call),
            None => Ok(()),
        }
    }

    /// As [`Pods::stop`].
    pub(in crate::pod) fn end(&self, container: &Arc<Container>, grace: Duration, call: &Call) -> Result<()> {
        container.end_start(grace)?;
        let kill_at = Instant::now() + grace.min(LONGEST);
        let first = {
            let mut life = container.life();
            if life.record.state != State::Running {
                return Ok(());
            }
            let first = life.kill_at.is_none();
            life.kill_at = Some(life.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
            // Who waits for a later moment looks again.
            container.changed.notify_all();
            first
        };
        if first && !grace.is_zero() {
            self.signal(container, container.stop_signal())?;
        }
        if container.ends_by(call, |life| life.kill_at.unwrap_or(kill_at))? {
            return Ok(());
        }
        self.kill_now(container)?;
        let last = Instant::now() + LAST;
        if container.ends_by(call, |_| last)? {
            return Ok(());
        }
        Err(Error::new(Kind::TimedOut, format!("container {} does not die", container.id))
            .hint("it may wait for a device or a network filesystem"))
    }

    /// Kills the first process, and all others: one that shares its PID namespace with the pod does not take them along, and
    /// what is frozen dies only once it is thawed.
    pub(in crate::pod) fn kill_now(&self, container: &Container) -> Result<()> {
        self.signal(container, libc::SIGKILL)?;
        match self.oci_state(&container.id).and_then(|state| Group::from_paths(&state.cgroup_paths)) {
            Ok(group) => group.kill_all(libc::SIGKILL),
            // It has been deleted meanwhile.
            Err(_) => Ok(()),
        }
    }

    /// That it has ended just now is no error.
    fn signal(&self, container: &Container, signal: i32) -> Result<()> {
        match kill::kill_at_once(&self.runtime(), &ContainerId::parse(&container.id)?, signal, false) {
            Err(e) if !matches!(e.kind(), Kind::WrongState | Kind::NotFound) => Err(e),
            _ => Ok(()),
        }
    }
}

impl Container {
    fn stop_signal(&self) -> i32 {
        kill::parse_signal(&self.life().record.stop_signal).unwrap_or(libc::SIGTERM)
    }

    /// Has a start that is under way end, without waiting for it.
    pub(in crate::pod) fn abort_start(&self) {
        let start = self.life().start.clone();
        if let Some(start) = start {
            start.fire();
        }
    }

    /// Waits until no start is under way any more; one that takes longer than a moment of the grace is ended.
    fn end_start(&self, grace: Duration) -> Result<()> {
        if self.is_started_by(Instant::now() + grace.min(START_PATIENCE)) {
            return Ok(());
        }
        self.abort_start();
        if self.is_started_by(Instant::now() + LAST) {
            return Ok(());
        }
        Err(Error::new(Kind::TimedOut, format!("the start of container {} does not end", self.id))
            .hint("it may wait for a device or a network filesystem"))
    }

    /// Waits until its start has come to an end, or the moment has come; whether it has come to an end.
    fn is_started_by(&self, moment: Instant) -> bool {
        let left = moment.saturating_duration_since(Instant::now());
        let starting = |life: &mut super::Life| life.record.state == State::Starting;
        let waited = self.changed.wait_timeout_while(self.life(), left, starting);
        let (life, _) = waited.unwrap_or_else(PoisonError::into_inner);
        life.record.state != State::Starting
    }

    /// Waits until it has ended, or a moment that may change meanwhile has come; whether it has ended.
    ///
    /// # Errors
    /// `Cancelled` when nobody waits for the answer any more.
    fn ends_by(&self, call: &Call, moment: impl Fn(&super::Life) -> Instant) -> Result<bool> {
        let mut life = self.life();
        loop {
            if life.record.state != State::Running {
                return Ok(true);
            }
            if call.is_cancelled() {
                return Err(Error::new(Kind::Cancelled, format!("stop container {}", self.id)));
            }
            let left = moment(&life).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let woken = self.changed.wait_timeout(life, left.min(LOOK));
            life = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
