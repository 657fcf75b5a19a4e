//! The life cycle of a container as a table.

use std::fmt;

use crate::cgroup::Group;
use crate::error::{Error, Kind, Result};
use crate::linux::proc_stat::ProcStat;
use crate::record::{ContainerState, Layout};

/// The status of a container. SPEC(runtime 1.2 #state), with runc's `paused`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Its first process waits for `start`.
    Created,
    /// Its first process is the payload.
    Running,
    /// All its processes are frozen.
    Paused,
    /// Its first process has ended.
    Stopped,
}

/// An operation that a status may admit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// `start`
    Start,
    /// `exec`
    Exec,
    /// `exec --ignore-paused`
    ExecPaused,
    /// `kill`
    Kill,
    /// `delete`
    Delete,
    /// `pause`
    Pause,
    /// `resume`
    Resume,
    /// `ps`
    Ps,
    /// `update`
    Update,
}

impl Status {
    /// Determines a container's current status.
    ///
    /// # Errors
    /// /proc or the cgroup cannot be read.
    pub fn of(state: &ContainerState, layout: &Layout) -> Result<Self> {
        let alive = ProcStat::read(state.init_process_pid)?
            .is_some_and(|stat| stat.start_time == state.init_process_start && !stat.is_dead());
        if !alive {
            return Ok(Self::Stopped);
        }
        let frozen =
            Group::from_paths(&state.cgroup_paths).and_then(|group| group.is_frozen()).unwrap_or(false);
        Ok(match (frozen, layout.start_socket().exists()) {
            (true, _) => Self::Paused,
            (false, true) => Self::Created,
            (false, false) => Self::Running,
        })
    }

    /// Checks whether the status admits the event.
    ///
    /// # Errors
    /// `WrongState`, naming the status.
    pub fn admits(self, event: Event) -> Result<()> {
        use Event as E;
        use Status as S;
        let allowed = match (self, event) {
            (S::Created, E::Start | E::Kill | E::Exec | E::ExecPaused | E::Pause | E::Ps | E::Update) => true,
            (S::Created, E::Delete | E::Resume) => false,
            (S::Running, E::Exec | E::ExecPaused | E::Kill | E::Pause | E::Ps | E::Update) => true,
            (S::Running, E::Start | E::Delete | E::Resume) => false,
            (S::Paused, E::ExecPaused | E::Kill | E::Resume | E::Ps | E::Update) => true,
            (S::Paused, E::Start | E::Exec | E::Delete | E::Pause) => false,
            (S::Stopped, E::Delete) => true,
            (
                S::Stopped,
                E::Start | E::Exec | E::ExecPaused | E::Kill | E::Pause | E::Resume | E::Ps | E::Update,
            ) => false,
        };
        if allowed { Ok(()) } else { Err(self.refusal(event)) }
    }

    fn refusal(self, event: Event) -> Error {
        let error = Error::new(
            Kind::WrongState,
            match (self, event) {
                // containerd searches the message of a kill for this text.
                (Self::Stopped, Event::Kill) => "container not running".to_owned(),
                _ => format!("cannot {event} a container that is {self}"),
            },
        );
        match (self, event) {
            (Self::Created | Self::Running | Self::Paused, Event::Delete) => {
                error.command_hint("stop it first, or use delete --force")
            }
            (Self::Paused, Event::Exec | Event::Start) => error.hint("resume it first"),
            _ => error,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Start => "start",
            Self::Exec | Self::ExecPaused => "exec in",
            Self::Kill => "kill",
            Self::Delete => "delete",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Ps => "list the processes of",
            Self::Update => "update",
        })
    }
}
