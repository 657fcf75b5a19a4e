//! StopContainer: a signal that asks, then one that does not.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::Container;
use crate::error::{Error, Kind, Result};
use crate::id::ContainerId;
use crate::oci::kill;
use crate::pod::Pods;
use crate::pod::machine::State;

/// How long a killed container may take to die.
const LAST: Duration = Duration::from_secs(30);

/// The longest grace: waiting longer is waiting for ever.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

impl Pods {
    /// Ends a container: its stop signal, `grace`, then SIGKILL; at once when `grace` is zero. A second call with a shorter
    /// grace shortens the wait of the first. One that does not exist or has exited is no error.
    ///
    /// # Errors
    /// `TimedOut` when not even a kill ends it.
    pub fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        match self.find_container(id)? {
            Some(container) => self.end(&container, grace),
            None => Ok(()),
        }
    }

    /// As [`Pods::stop_container`].
    pub(in crate::pod) fn end(&self, container: &Arc<Container>, grace: Duration) -> Result<()> {
        let kill_at = Instant::now() + grace.min(LONGEST);
        let first = {
            let mut life = container.life();
            while life.record.state == State::Starting {
                life = container.changed.wait(life).unwrap_or_else(PoisonError::into_inner);
            }
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
        if container.ends_by(|life| life.kill_at.unwrap_or(kill_at)) {
            return Ok(());
        }
        self.signal(container, libc::SIGKILL)?;
        let last = Instant::now() + LAST;
        if container.ends_by(|_| last) {
            return Ok(());
        }
        Err(Error::new(Kind::TimedOut, format!("container {} does not die", container.id))
            .hint("it may wait for a device or a network filesystem"))
    }

    /// That it has ended just now is no error.
    fn signal(&self, container: &Container, signal: i32) -> Result<()> {
        match kill::kill(&self.runtime(), &ContainerId::parse(&container.id)?, signal, false) {
            Err(e) if !matches!(e.kind(), Kind::WrongState | Kind::NotFound) => Err(e),
            _ => Ok(()),
        }
    }
}

impl Container {
    fn stop_signal(&self) -> i32 {
        kill::parse_signal(&self.life().record.stop_signal).unwrap_or(libc::SIGTERM)
    }

    /// Waits until it has ended, or a moment that may change meanwhile has come; whether it has ended.
    fn ends_by(&self, moment: impl Fn(&super::Life) -> Instant) -> bool {
        let mut life = self.life();
        loop {
            if life.record.state != State::Running {
                return true;
            }
            let left = moment(&life).saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            let woken = self.changed.wait_timeout(life, left);
            life = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
