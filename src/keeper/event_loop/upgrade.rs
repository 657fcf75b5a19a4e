//! Before the keeper executes its program anew it asks that program whether it could take over. Another release may lie
//! there by now, an older one after a downgrade: executed, it would find a state that it cannot read, and the terminals and
//! standard inputs of all containers would end with it.

use std::time::{Duration, Instant};

use rustix::process::{Signal, pidfd_send_signal};

use super::spawn::run_program;
use super::{Keeper, What};
use crate::error::{Error, Kind, Result};
use crate::keeper::own_log::warn;
use crate::keeper::program::NAME;
use crate::keeper::protocol::Upgraded;
use crate::launch::self_protect::own_path;
use crate::record::format::{Format, KEEPER_RECORD, KEEPER_SNAPSHOT};

/// How long the program may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far an upgrade has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::keeper) enum Upgrade {
    /// Nobody wants one.
    #[default]
    None,
    /// This child is the program, which is asked whether it can take over.
    Asking { child: u32, until: Instant },
    /// The program is executed as soon as nothing is being launched.
    Ready,
}

impl Upgrade {
    /// How long its answer is waited for.
    pub(in crate::keeper) fn left(self) -> Option<Duration> {
        match self {
            Self::Asking { until, .. } => Some(until.saturating_duration_since(Instant::now())),
            Self::None | Self::Ready => None,
        }
    }
}

impl Keeper {
    /// Asks the program whether it can take over, and executes it when it says so.
    pub(in crate::keeper) fn begin_upgrade(&mut self) {
        match self.upgrade {
            Upgrade::None => {}
            Upgrade::Asking { .. } => return,
            Upgrade::Ready => return self.clients.answer_upgrading(&Upgraded::Yes),
        }
        let program = own_path().map(|path| path.to_string_lossy().into_owned());
        let child = program
            .and_then(|program| run_program(&program, NAME, &["--can-resume".to_owned(), versions()], &[]));
        let Some(pidfd) = child else {
            return self.refuse_upgrade("the keeper's program cannot be executed");
        };
        let child = self.new_key();
        self.poll.add(&pidfd, (What::Child, child));
        self.children.insert(child, pidfd);
        self.upgrade = Upgrade::Asking { child, until: Instant::now() + PATIENCE };
    }

    /// A child has ended: perhaps it was the program that was asked.
    pub(in crate::keeper) fn program_has_answered(&mut self, ended: u32, has_succeeded: bool) {
        let Upgrade::Asking { child, .. } = self.upgrade else { return };
        if child != ended {
            return;
        }
        if has_succeeded {
            self.upgrade = Upgrade::Ready;
            return self.clients.answer_upgrading(&Upgraded::Yes);
        }
        self.refuse_upgrade(&format!(
            "the program that lies there now cannot take over: it does not know version {} of {} and version {} of {}",
            KEEPER_SNAPSHOT.version, KEEPER_SNAPSHOT.name, KEEPER_RECORD.version, KEEPER_RECORD.name
        ));
    }

    /// Ends a program that does not answer.
    pub(in crate::keeper) fn look_at_upgrade(&mut self) {
        let Upgrade::Asking { child, until } = self.upgrade else { return };
        if Instant::now() < until {
            return;
        }
        if let Some(pidfd) = self.children.get(&child) {
            // It is reaped like every child; its answer is not waited for any more.
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        self.refuse_upgrade("the program that lies there now does not answer");
    }

    fn refuse_upgrade(&mut self, why: &str) {
        warn(&format!("upgrade: {why}"));
        self.upgrade = Upgrade::None;
        self.clients.answer_upgrading(&Upgraded::No(why.to_owned()));
    }
}

/// What this program writes, as `--can-resume` takes it.
fn versions() -> String {
    format!("{},{}", KEEPER_SNAPSHOT.version, KEEPER_RECORD.version)
}

/// Whether this program takes over from one that writes these versions.
///
/// # Errors
/// `Unsupported`, with the version that is not known.
pub(in crate::keeper) fn can_resume(versions: &str) -> Result<()> {
    let unreadable = || Error::invalid(format!("--can-resume {versions:?}: two versions are needed, as 3,2"));
    let (state, record) = versions.split_once(',').ok_or_else(unreadable)?;
    let check = |text: &str, format: Format| {
        let version = text.parse().map_err(|_| unreadable())?;
        format.check(version).map_err(|error| {
            Error::new(Kind::Unsupported, "take over from a keeper of another release").because(error)
        })
    };
    check(state, KEEPER_SNAPSHOT)?;
    check(record, KEEPER_RECORD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_takes_over_from_itself_and_the_release_before_only() {
        can_resume(&versions()).unwrap();
        can_resume("2,1").unwrap();
        let error = can_resume("4,2").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.chain().contains("version 4 of the keeper's state"), "{error:?}");
        assert!(can_resume("3,9").unwrap_err().chain().contains("version 9 of the keeper's record"));
        for bad in ["", "3", "3,", "x,2", "3,2,1", "-1,2"] {
            assert_eq!(can_resume(bad).unwrap_err().kind(), Kind::Invalid, "{bad}");
        }
    }
}
