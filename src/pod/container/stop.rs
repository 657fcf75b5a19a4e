//! StopContainer: the stop signal, a grace period, then SIGKILL.

use std::sync::PoisonError;
use std::time::{Duration, Instant};

use coracle_cri::Call;

use super::{Container, Containers};
use crate::cgroup::Group;
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::oci::{delete, kill};
use crate::pod::machine::State;

/// How long a killed container may take to exit.
const LAST: Duration = Duration::from_secs(30);

/// The longest grace period, so that adding it to an instant cannot overflow.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// How long a stop with a grace period waits for a start under way, so that the program gets its stop signal, too.
const START_PATIENCE: Duration = Duration::from_secs(1);

/// How often a waiting stop checks whether its call was cancelled.
const LOOK: Duration = Duration::from_secs(1);

impl Containers {
    /// Stops a container: its stop signal, `grace`, then SIGKILL; SIGKILL at once when `grace` is zero. A second call with a
    /// shorter grace period shortens the wait of the first. A container that has exited is no error, and a start that is
    /// under way is aborted.
    ///
    /// # Errors
    /// `TimedOut` when the container survives SIGKILL; `Cancelled` when `call` was cancelled.
    pub(in crate::pod) fn stop(&self, container: &Container, grace: Duration, call: &Call) -> Result<()> {
        container.end_start(grace)?;
        let kill_at = Instant::now() + grace.min(LONGEST);
        let first = {
            let mut life = container.life();
            if life.record.state != State::Running {
                return Ok(());
            }
            let first = life.kill_at.is_none();
            life.kill_at = Some(life.kill_at.map_or(kill_at, |earlier| earlier.min(kill_at)));
            // A call that waits with a longer grace period re-reads `kill_at`.
            container.changed.notify_all();
            first
        };
        if first && !grace.is_zero() {
            self.signal(container, container.stop_signal())?;
        }
        if container.exits_by(call, |life| life.kill_at.unwrap_or(kill_at))? {
            return Ok(());
        }
        self.kill_now(container)?;
        let last = Instant::now() + LAST;
        if container.exits_by(call, |_| last)? {
            return Ok(());
        }
        Err(Error::new(Kind::TimedOut, format!("container {} does not die", container.id))
            .hint("it may wait for a device or a network filesystem"))
    }

    /// Stops all containers of a pod at once.
    ///
    /// # Errors
    /// The first error; the other containers are stopped all the same.
    pub(in crate::pod) fn stop_all_in(&self, pod: &str) -> Result<()> {
        let containers = self.in_pod(pod);
        // Kill all before waiting for any: one that does not die must not keep the others running.
        for container in &containers {
            container.abort_start();
            if container.state() == State::Running {
                self.kill_now(container)?;
            }
        }
        let stopped: Vec<_> = containers
            .iter()
            .map(|container| self.stop(container, Duration::ZERO, &Call::default()))
            .collect();
        stopped.into_iter().collect()
    }

    /// Kills the init process and all others: they do not die with an init process that shares the pod's PID namespace, and
    /// a frozen process dies only after it is thawed.
    fn kill_now(&self, container: &Container) -> Result<()> {
        self.signal(container, libc::SIGKILL)?;
        match self.host.oci_state(&container.id).and_then(|state| Group::from_paths(&state.cgroup_paths)) {
            Ok(group) => group.kill_all(libc::SIGKILL),
            // Its OCI state has been deleted in the meantime.
            Err(_) => Ok(()),
        }
    }

    /// Signals the init process; a container that has just exited is no error. One with a damaged OCI state is killed,
    /// whatever the signal: only its cgroup is known.
    fn signal(&self, container: &Container, signal: i32) -> Result<()> {
        let (runtime, id) = (self.host.runtime(), ContainerId::parse(&container.id)?);
        match kill::kill_at_once(&runtime, &id, signal, false) {
            Err(e) if e.kind() == Kind::Corrupt => {
                crate::log::warning(&e.doing(format!("kill container {id} without its state")).chain());
                delete::delete(&runtime, &id, true)
            }
            Err(e) if !matches!(e.kind(), Kind::WrongState | Kind::NotFound) => Err(e),
            _ => Ok(()),
        }
    }
}

impl Container {
    fn stop_signal(&self) -> i32 {
        kill::parse_signal(&self.life().record.stop_signal).unwrap_or(libc::SIGTERM)
    }

    /// Aborts a start that is under way, without waiting for its end.
    fn abort_start(&self) {
        let start = self.life().start.clone();
        if let Some(start) = start {
            start.fire();
        }
    }

    /// Waits for a start that is under way, and aborts it if it takes longer than `grace` or `START_PATIENCE`.
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

    /// Waits until no start is under way, or until `moment`; returns whether none is under way.
    fn is_started_by(&self, moment: Instant) -> bool {
        let left = moment.saturating_duration_since(Instant::now());
        let starting = |life: &mut super::Life| life.record.state == State::Starting;
        let waited = self.changed.wait_timeout_while(self.life(), left, starting);
        let (life, _) = waited.unwrap_or_else(PoisonError::into_inner);
        life.record.state != State::Starting
    }

    /// Waits until it has exited, or until `moment`, which another call may change; returns whether it has exited.
    ///
    /// # Errors
    /// `Cancelled` when `call` was cancelled.
    fn exits_by(&self, call: &Call, moment: impl Fn(&super::Life) -> Instant) -> Result<bool> {
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
