//! A container as the keeper has it, and what is done with it: the actions of `machine`.

use std::os::fd::OwnedFd;

use super::life::State;
use super::log::Log;
use super::run_dir::{Ends, Record};
use super::spawn::Launcher;
use super::stream::Source;
use super::timer::Timer;
use crate::keeper::protocol::Stream;
use crate::record::Exit;

/// See the module's head.
#[derive(Debug)]
pub(in crate::keeper) struct Container {
    pub(in crate::keeper) record: Record,
    pub(in crate::keeper) state: State,
    /// The client that asked for its launch and attends it.
    pub(in crate::keeper) client: Option<u32>,
    pub(in crate::keeper) launcher: Option<Launcher>,
    /// What the launcher said when there was no process.
    pub(super) refusal: String,
    /// Where its terminal comes from.
    pub(in crate::keeper) console: Option<OwnedFd>,
    pub(in crate::keeper) process: Option<OwnedFd>,
    pub(in crate::keeper) stdin: Option<OwnedFd>,
    /// What was sent to its standard input and not yet taken.
    pub(in crate::keeper) input: Vec<u8>,
    /// Its standard input is to be closed behind that.
    pub(in crate::keeper) closing: bool,
    pub(in crate::keeper) stdout: Option<Source>,
    pub(in crate::keeper) stderr: Option<Source>,
    pub(in crate::keeper) log: Log,
    pub(in crate::keeper) exit: Option<Exit>,
    /// When it is looked at again though nothing has happened to it.
    pub(in crate::keeper) timer: Option<Timer>,
}

impl Container {
    /// One of which the streams are open and nothing else is known yet.
    pub(in crate::keeper) fn new(record: Record, state: State, ends: Ends) -> Self {
        let log = Log::new(record.order.log.clone());
        Self {
            record,
            state,
            client: None,
            launcher: None,
            refusal: String::new(),
            console: None,
            process: None,
            stdin: ends.stdin,
            input: Vec::new(),
            closing: false,
            stdout: ends.stdout.map(|fd| Source::fifo(fd, Stream::Stdout, 0)),
            stderr: ends.stderr.map(|fd| Source::fifo(fd, Stream::Stderr, 0)),
            log,
            exit: None,
            timer: Timer::of(state),
        }
    }

    pub(in crate::keeper) fn is_launching(&self) -> bool {
        matches!(self.state, State::Launching | State::Void)
    }

    /// Something of it is on its way here that would be lost on somebody else.
    pub(in crate::keeper) fn is_arriving(&self) -> bool {
        self.is_launching() || self.console.is_some()
    }

    pub(in crate::keeper) fn id(&self) -> &str {
        &self.record.order.id
    }

    /// The descriptor that takes its input: the FIFO, or the terminal.
    pub(in crate::keeper) fn input_end(&self) -> Option<&OwnedFd> {
        match self.record.order.has_console {
            true => self.stdout.as_ref().map(|source| &source.fd),
            false => self.stdin.as_ref(),
        }
    }
}
